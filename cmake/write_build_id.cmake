# Writes OUTPUT, the source of BuildId(), from the checkout at SOURCE; leaves it alone if nothing has changed, so that
# nothing is compiled again.
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=10 HEAD OUTPUT_VARIABLE commit ERROR_QUIET
                OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
set(id ${VERSION})
if(NOT failed AND commit)
  execute_process(COMMAND git -C ${SOURCE} diff --quiet HEAD RESULT_VARIABLE has_changes ERROR_QUIET)
  string(APPEND id "+${commit}")
  if(has_changes)
    string(APPEND id ".changed")
  endif()
endif()
set(text "#include \"common/build_id.h\"\n\nnamespace normlab {\nstd::string_view BuildId() { return \"${id}\"; }\n}  // namespace normlab\n")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} present)
endif()
if(NOT present STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
