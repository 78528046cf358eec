# Writes OUTPUT, the source of BuildId(), from COMMIT or, where that is empty, from the checkout at SOURCE; leaves it alone
# if nothing has changed, so that nothing is compiled again.
set(id ${VERSION})
# Not if(COMMIT): a hash may look like the number 0.
if(NOT "${COMMIT}" STREQUAL "")
  string(APPEND id "+${COMMIT}")
else()
  execute_process(COMMAND git -C ${SOURCE} rev-parse --short=10 HEAD OUTPUT_VARIABLE commit ERROR_QUIET
                  OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(NOT failed AND commit)
    execute_process(COMMAND git -C ${SOURCE} diff --quiet HEAD RESULT_VARIABLE has_changes ERROR_QUIET)
    string(APPEND id "+${commit}")
    if(has_changes)
      string(APPEND id ".changed")
    endif()
  endif()
endif()
set(text "#include \"common/build_id.h\"\n\nnamespace normlab {\nstd::string_view BuildId() { return \"${id}\"; }\n}  // namespace normlab\n")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} present)
endif()
if(NOT present STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
