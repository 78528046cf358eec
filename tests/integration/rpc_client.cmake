# normlab-test-rpc: calls any method of a server, with types from its reflection service.
find_package(Protobuf REQUIRED)
find_package(gRPC CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(fmt CONFIG REQUIRED)
add_executable(normlab-test-rpc rpc_client.cc health.proto reflection.proto)
target_link_libraries(normlab-test-rpc PRIVATE
  normlab_options protobuf::libprotobuf gRPC::grpc++ fmt::fmt nlohmann_json::nlohmann_json)
target_include_directories(normlab-test-rpc SYSTEM PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
set_target_properties(normlab-test-rpc PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
protobuf_generate(TARGET normlab-test-rpc LANGUAGE cpp IMPORT_DIRS ${CMAKE_CURRENT_SOURCE_DIR})
protobuf_generate(TARGET normlab-test-rpc LANGUAGE grpc IMPORT_DIRS ${CMAKE_CURRENT_SOURCE_DIR}
  GENERATE_EXTENSIONS .grpc.pb.h .grpc.pb.cc PLUGIN "protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin>")
