#include "common/tls_files.h"

#include <netdb.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <memory>
#include <system_error>

#include "common/status.h"
#include "fmt/format.h"

namespace normlab {
namespace {

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    free_function(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using SslContext = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Free<SSL_free>>;

constexpr timeval kSocketTimeout = {.tv_sec = 2, .tv_usec = 0};

absl::StatusOr<Bio> OpenPem(const std::string& file) {
  errno = 0;
  Bio bio(BIO_new_file(file.c_str(), "r"));
  const int error = errno;
  ERR_clear_error();
  if (bio) return bio;
  return absl::NotFoundError(fmt::format("cannot read {}: {}", file, std::generic_category().message(error)));
}

absl::StatusOr<Certificate> ReadFirst(const std::string& file) {
  NORMLAB_ASSIGN_OR_RETURN(const Bio bio, OpenPem(file));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate) return certificate;
  return absl::InvalidArgumentError(fmt::format("{} holds no certificate in PEM form", file));
}

/// A key with a passphrase is no key for a daemon: nobody is there to type it.
int RefusePassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<Key> ReadKey(const std::string& file) {
  NORMLAB_ASSIGN_OR_RETURN(const Bio bio, OpenPem(file));
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, RefusePassphrase, nullptr));
  ERR_clear_error();
  if (key) return key;
  return absl::InvalidArgumentError(fmt::format("{} holds no private key in PEM form without a passphrase", file));
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm fields{};
  return ASN1_TIME_to_tm(time, &fields) == 1 ? absl::FromTM(fields, absl::UTCTimeZone()) : absl::InfinitePast();
}

std::string Name(const X509_NAME* name) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);  // NOLINT(runtime/int): OpenSSL's type.
  return {data, static_cast<size_t>(size)};
}

CertificateInfo Describe(const X509* certificate) {
  return {.subject = Name(X509_get_subject_name(certificate)),
          .not_before = ToTime(X509_get0_notBefore(certificate)),
          .not_after = ToTime(X509_get0_notAfter(certificate))};
}

std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M UTC", time, absl::UTCTimeZone()); }

absl::Status CheckDates(const std::string& flag, const std::string& file, const CertificateInfo& info, absl::Time now) {
  if (now > info.not_after) {
    return absl::FailedPreconditionError(fmt::format("{} {}: the certificate of {} expired on {}; put a new one there",
                                                     flag, file, info.subject, Day(info.not_after)));
  }
  if (now < info.not_before) {
    return absl::FailedPreconditionError(
        fmt::format("{} {}: the certificate of {} is valid from {} only; is this host's clock ({}) right?", flag, file,
                    info.subject, Day(info.not_before), Day(now)));
  }
  return absl::OkStatus();
}

absl::Status Prefix(const std::string& flag, const absl::Status& status) {
  return absl::Status(status.code(), fmt::format("{}: {}", flag, std::string(status.message())));
}

/// OpenSSL's last error of this thread; `fallback` if it says nothing.
std::string LastError(const std::string& fallback) {
  const unsigned long code = ERR_peek_last_error();  // NOLINT(runtime/int): OpenSSL's type.
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? fallback : reason;
}

/// A connected socket with timeouts on everything, or -1.
int Connect(const std::string& host, const std::string& port) {
  const addrinfo hints{.ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return -1;
  int fd = -1;
  for (const addrinfo* next = found; next != nullptr && fd < 0; next = next->ai_next) {
    fd = socket(next->ai_family, next->ai_socktype | SOCK_CLOEXEC, next->ai_protocol);
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kSocketTimeout, sizeof(kSocketTimeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kSocketTimeout, sizeof(kSocketTimeout));  // Of connect, too.
    if (connect(fd, next->ai_addr, next->ai_addrlen) == 0) break;
    close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  return fd;
}

absl::Status Handshake(SSL* ssl, const std::string& address) {
  if (SSL_connect(ssl) != 1) {
    return absl::FailedPreconditionError(fmt::format(
        "{} does not speak TLS as expected ({}): is it served in plain text?", address, LastError("no answer")));
  }
  const long verdict = SSL_get_verify_result(ssl);  // NOLINT(runtime/int): OpenSSL's type.
  if (const Certificate peer(SSL_get1_peer_certificate(ssl)); verdict != X509_V_OK && peer) {
    const CertificateInfo info = Describe(peer.get());
    return absl::FailedPreconditionError(
        fmt::format("the certificate of {} is refused: {} (it is of {}, issued by {}, valid {} to {})", address,
                    X509_verify_cert_error_string(verdict), info.subject, Name(X509_get_issuer_name(peer.get())),
                    Day(info.not_before), Day(info.not_after)));
  }
  // With TLS 1.3 the server judges our certificate after the handshake; its verdict is the first thing to read.
  char byte;
  if (SSL_read(ssl, &byte, 1) == 1) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} refuses this client's certificate ({}): give one of its authorities with --tls-cert and --tls-key", address,
      LastError("it closed the connection")));
}

}  // namespace

absl::StatusOr<CertificateInfo> ReadCertificate(const std::string& cert_file) {
  NORMLAB_ASSIGN_OR_RETURN(const Certificate certificate, ReadFirst(cert_file));
  return Describe(certificate.get());
}

absl::Status CheckIdentity(const std::string& flags, const std::string& cert_file, const std::string& key_file,
                           absl::Time now) {
  const auto certificate = ReadFirst(cert_file);
  if (!certificate.ok()) return Prefix(flags, certificate.status());
  const auto key = ReadKey(key_file);
  if (!key.ok()) return Prefix(flags, key.status());
  const CertificateInfo info = Describe(certificate->get());
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError(fmt::format("{}: the key in {} does not belong to the certificate of {} in {}",
                                                     flags, key_file, info.subject, cert_file));
  }
  return CheckDates(flags, cert_file, info, now);
}

absl::Status CheckAuthorities(const std::string& flag, const std::string& ca_file, absl::Time now) {
  const auto bio = OpenPem(ca_file);
  if (!bio.ok()) return Prefix(flag, bio.status());
  absl::Status last = absl::InvalidArgumentError(fmt::format("{}: {} holds no certificate in PEM form", flag, ca_file));
  while (const Certificate certificate{PEM_read_bio_X509(bio->get(), nullptr, nullptr, nullptr)}) {
    last = CheckDates(flag, ca_file, Describe(certificate.get()), now);
    if (last.ok()) break;
  }
  ERR_clear_error();
  return last;
}

absl::Status DiagnoseTls(const std::string& address, const std::string& ca_file, const std::string& cert_file,
                         const std::string& key_file) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const int fd = Connect(host, colon == std::string::npos ? "" : address.substr(colon + 1));
  if (fd < 0) return absl::UnavailableError(fmt::format("nothing accepts connections at {}", address));

  const SslContext context(SSL_CTX_new(TLS_client_method()));
  // Judged after the handshake: a refused one would not say whose certificate it was.
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  SSL_CTX_load_verify_locations(context.get(), ca_file.c_str(), nullptr);
  if (!cert_file.empty()) {
    SSL_CTX_use_certificate_chain_file(context.get(), cert_file.c_str());
    SSL_CTX_use_PrivateKey_file(context.get(), key_file.c_str(), SSL_FILETYPE_PEM);
  }
  static constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context.get(), kHttp2, sizeof(kHttp2));
  ERR_clear_error();
  const Ssl ssl(SSL_new(context.get()));
  X509_VERIFY_PARAM* const expected = SSL_get0_param(ssl.get());
  if (X509_VERIFY_PARAM_set1_ip_asc(expected, host.c_str()) != 1) {
    SSL_set1_host(ssl.get(), host.c_str());
    SSL_set_tlsext_host_name(ssl.get(), host.c_str());
  }
  ERR_clear_error();
  SSL_set_fd(ssl.get(), fd);
  absl::Status status = Handshake(ssl.get(), address);
  close(fd);
  return status;
}

}  // namespace normlab
