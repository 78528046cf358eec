// Certificates and keys in PEM files: found wrong before they are used, with a message that says what to do.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace normlab {

/// What a person wants to know of a certificate.
struct CertificateInfo {
  std::string subject;
  absl::Time not_before;
  absl::Time not_after;
};

/// The first certificate of the file. NOT_FOUND if the file cannot be read, INVALID_ARGUMENT if it holds none.
absl::StatusOr<CertificateInfo> ReadCertificate(const std::string& cert_file);

/// OK if the files can identify a program at `now`: both can be read, the key belongs to the first certificate, and the
/// certificate is valid. `flags` names the two flags in messages ("--tls-cert and --tls-key"). FAILED_PRECONDITION if
/// it is expired, not valid yet, or of another key; otherwise as ReadCertificate.
absl::Status CheckIdentity(const std::string& flags, const std::string& cert_file, const std::string& key_file,
                           absl::Time now);

/// OK if the file has certificates of authorities and at least one is valid at `now`.
absl::Status CheckAuthorities(const std::string& flag, const std::string& ca_file, absl::Time now);

/// Why a TLS connection to `address` does not come about, in words: it does one handshake of its own, for libraries
/// that only say that theirs failed. `cert_file` and `key_file` may be empty. Blocks for at most 4 seconds. OK if the
/// handshake works; UNAVAILABLE if nothing listens, FAILED_PRECONDITION for anything about certificates.
absl::Status DiagnoseTls(const std::string& address, const std::string& ca_file, const std::string& cert_file,
                         const std::string& key_file);

}  // namespace normlab
