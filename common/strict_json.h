#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// JSON that must be exactly as expected: every key known, present once and of its type.
namespace normlab {

/// The message starts with the path of the value ("run.model.hidden").
struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One object inside a parsed document, which must outlive it. Reading a key marks it as known; RefuseOthers then
/// throws for the keys that were not read. All errors are JsonError.
class StrictObject {
 public:
  StrictObject(const nlohmann::json& value, std::string path) : value_(value), path_(std::move(path)) {
    if (!value.is_object()) throw JsonError(fmt::format("{}: must be an object, is {}", Name(), Excerpt(value)));
  }

  bool Has(const std::string& key) const { return value_.contains(key); }

  const nlohmann::json& Member(const std::string& key) {
    const auto member = value_.find(key);
    if (member == value_.end()) throw JsonError(fmt::format("{}: the key \"{}\" is missing", Name(), key));
    known_.insert(key);
    return *member;
  }

  StrictObject Child(const std::string& key) { return StrictObject(Member(key), PathOf(key)); }

  std::vector<StrictObject> Children(const std::string& key) {
    const nlohmann::json& list = Member(key);
    if (!list.is_array()) Fail(key, "a list");
    std::vector<StrictObject> children;
    for (size_t i = 0; i < list.size(); ++i) children.emplace_back(list[i], fmt::format("{}[{}]", PathOf(key), i));
    return children;
  }

  std::string Text(const std::string& key) {
    const nlohmann::json& value = Member(key);
    if (!value.is_string()) Fail(key, "text");
    return value.get<std::string>();
  }

  std::string OneOf(const std::string& key, const std::vector<std::string>& choices) {
    const std::string text = Text(key);
    for (const std::string& choice : choices) {
      if (text == choice) return text;
    }
    Fail(key, fmt::format("one of {}", fmt::join(choices, ", ")));
  }

  bool Bool(const std::string& key) {
    const nlohmann::json& value = Member(key);
    if (!value.is_boolean()) Fail(key, "true or false");
    return value.get<bool>();
  }

  /// A whole number. Text such as "12" is one too: proto JSON writes 64-bit numbers so.
  int64_t Int(const std::string& key, int64_t min = 0, int64_t max = int64_t{1} << 56) {
    const nlohmann::json& value = Member(key);
    const std::string expected = fmt::format("a whole number from {} to {}", min, max);
    nlohmann::json number = value;
    if (value.is_string()) number = nlohmann::json::parse(value.get_ref<const std::string&>(), nullptr, false);
    if (!number.is_number_integer()) Fail(key, expected);
    const bool is_too_large =
        number.is_number_unsigned() && number.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
    if (is_too_large || number.get<int64_t>() < min || number.get<int64_t>() > max) Fail(key, expected);
    return number.get<int64_t>();
  }

  double Number(const std::string& key, double min, double max) {
    const nlohmann::json& value = Member(key);
    if (!value.is_number() || !(value.get<double>() >= min && value.get<double>() <= max)) {
      Fail(key, fmt::format("a number from {} to {}", min, max));
    }
    return value.get<double>();
  }

  /// For a key whose value is of no interest to this program.
  void Ignore(const std::string& key) { known_.insert(key); }

  void RefuseOthers() const {
    for (const auto& [key, unused] : value_.items()) {
      if (!known_.contains(key)) throw JsonError(fmt::format("{}: the key \"{}\" is unknown", Name(), key));
    }
  }

  std::string PathOf(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

 private:
  [[noreturn]] void Fail(const std::string& key, const std::string& expected) const {
    throw JsonError(fmt::format("{}: must be {}, is {}", PathOf(key), expected, Excerpt(value_.at(key))));
  }
  std::string Name() const { return path_.empty() ? "the document" : path_; }
  static std::string Excerpt(const nlohmann::json& value) {
    std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

  const nlohmann::json& value_;
  std::string path_;
  std::set<std::string> known_;
};

}  // namespace normlab
