// What leaves a spec: the trainer's file and the digest.
#include <openssl/sha.h>

#include "absl/strings/escaping.h"
#include "common/spec.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/json_util.h"

namespace normlab {

std::string ToTrainerJson(const v1::TrainerSpec& spec) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Fails only for messages with Any or with invalid UTF-8; a validated spec has neither.
  const auto status = google::protobuf::util::MessageToJsonString(spec, &json, options);
  if (!status.ok()) return "{}";
  return json;
}

std::string SpecDigest(const google::protobuf::Message& spec) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream out(&stream);
    out.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&out);
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), sizeof(digest)});
}

}  // namespace normlab
