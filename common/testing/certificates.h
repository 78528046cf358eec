// Certificates for tests, made on the spot: an authority, and what it signs.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace normlab {

/// Writes NAME.crt and NAME.key into a folder. The names that a certificate is for are "IP:127.0.0.1" or "DNS:host".
class TestAuthority {
 public:
  TestAuthority(std::filesystem::path folder, const std::string& name, absl::Time now)
      : folder_(std::move(folder)), name_(name), now_(now) {
    key_ = MakeKey();
    certificate_ = MakeCertificate(name, key_.get(), now - absl::Hours(1), now + absl::Hours(24));
    AddExtension(NID_basic_constraints, "critical,CA:TRUE");
    X509_set_issuer_name(certificate_.get(), X509_get_subject_name(certificate_.get()));
    X509_sign(certificate_.get(), key_.get(), EVP_sha256());
    Write(name, certificate_.get(), key_.get());
  }

  std::string ca_file() const { return (folder_ / (name_ + ".crt")).string(); }

  /// Signs a new certificate, valid from an hour ago for `lifetime`; with a name that was used, it replaces the files.
  void Issue(const std::string& name, const std::string& for_names, absl::Duration lifetime = absl::Hours(12)) {
    const Key key = MakeKey();
    const Certificate certificate =
        MakeCertificate(name, key.get(), now_ - absl::Hours(1), now_ - absl::Hours(1) + lifetime);
    X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate_.get()));
    if (X509_EXTENSION* names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, for_names.c_str())) {
      X509_add_ext(certificate.get(), names, -1);
      X509_EXTENSION_free(names);
    }
    X509_sign(certificate.get(), key_.get(), EVP_sha256());
    Write(name, certificate.get(), key.get());
  }

 private:
  struct Free {
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;

  static Key MakeKey() { return Key(EVP_EC_gen("P-256")); }

  static Certificate MakeCertificate(const std::string& name, EVP_PKEY* key, absl::Time from, absl::Time to) {
    static long serial = 1;  // NOLINT(runtime/int): OpenSSL's type.
    Certificate certificate(X509_new());
    X509_set_version(certificate.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial++);
    ASN1_TIME_set(X509_getm_notBefore(certificate.get()), absl::ToTimeT(from));
    ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(to));
    X509_set_pubkey(certificate.get(), key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    return certificate;
  }

  void AddExtension(int nid, const char* value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    X509_add_ext(certificate_.get(), extension, -1);
    X509_EXTENSION_free(extension);
  }

  /// Renamed into place, as a careful administrator does.
  void Write(const std::string& name, X509* certificate, EVP_PKEY* key) const {
    const auto write = [&](const std::string& suffix, auto write_pem) {
      const std::filesystem::path path = folder_ / (name + suffix);
      BIO* bio = BIO_new_file((path.string() + ".new").c_str(), "w");
      write_pem(bio);
      BIO_free_all(bio);
      std::filesystem::rename(path.string() + ".new", path);
    };
    write(".key", [key](BIO* bio) { PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); });
    write(".crt", [certificate](BIO* bio) { PEM_write_bio_X509(bio, certificate); });
  }

  const std::filesystem::path folder_;
  const std::string name_;
  const absl::Time now_;
  Key key_;
  Certificate certificate_;
};

}  // namespace normlab
