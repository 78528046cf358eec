#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Numbers that depend on depth, as users write them in a spec: "l^-p", "(2*L)^0.25", "1/sqrt(2*l)".
//
//   sum     = product { ("+" | "-") product }
//   product = unary { ("*" | "/") unary }
//   unary   = "-" unary | power                   (-l^2 is -(l^2))
//   power   = primary [ "^" unary ]               (2^3^2 is 2^(3^2))
//   primary = number | "l" | "L" | "p" | "q" | function "(" sum { "," sum } ")" | "(" sum ")"
//
// Functions: sqrt, log (natural), exp, floor of one number; min and max of two. Nothing else: a text is data from
// outside, so it cannot name a file, loop or grow.
namespace normlab {

/// Where a text stops being an expression.
struct DepthExpressionError : std::runtime_error {
  DepthExpressionError(std::size_t at, const std::string& message) : std::runtime_error(message), offset(at) {}

  std::size_t offset;  // Bytes from the start of the text.
};

struct DepthVariables {
  double l;  // 1-based block.
  double L;  // Number of blocks.
  double p;
  double q;
};

class DepthExpression {
 public:
  /// Throws DepthExpressionError for what the grammar above does not have.
  explicit DepthExpression(std::string_view text) : text_(text) {
    if (text.size() > kBytesMax) {
      throw DepthExpressionError(kBytesMax, fmt::format("has {} bytes, at most {} are read", text.size(), kBytesMax));
    }
    ReadSum();
    if (Peek() != '\0') Fail(fmt::format("expected an operator instead of '{}'", Peek()));
    text_ = {};
  }

  /// May be infinite or NaN, as the arithmetic has it.
  double operator()(const DepthVariables& variables) const {
    std::vector<double> stack;
    for (const Step& step : steps_) {
      if (step.kind == Kind::kNumber) {
        stack.push_back(step.number);
      } else if (step.kind == Kind::kVariable) {
        stack.push_back(variables.*step.variable);
      } else if (step.one != nullptr) {
        stack.back() = step.one(stack.back());
      } else {
        const double right = stack.back();
        stack.pop_back();
        stack.back() = step.two(stack.back(), right);
      }
    }
    return stack.back();
  }

 private:
  static constexpr std::size_t kBytesMax = 256;
  static constexpr int kNestingMax = 32;

  enum class Kind { kNumber, kVariable, kFunction };
  struct Step {  // Of a stack machine.
    Kind kind;
    double number = 0;
    double DepthVariables::*variable = nullptr;
    double (*one)(double) = nullptr;
    double (*two)(double, double) = nullptr;
  };

  [[noreturn]] void Fail(const std::string& message) const { throw DepthExpressionError(next_, message); }

  /// The next character that is no space; 0 at the end.
  char Peek() {
    while (next_ < text_.size() && (text_[next_] == ' ' || text_[next_] == '\t')) ++next_;
    return next_ < text_.size() ? text_[next_] : '\0';
  }

  bool Take(char c) {
    if (Peek() != c) return false;
    ++next_;
    return true;
  }

  void Expect(char c) {
    if (Take(c)) return;
    Fail(Peek() == '\0' ? fmt::format("ends where '{}' should be", c)
                        : fmt::format("expected '{}' instead of '{}'", c, Peek()));
  }

  void Push(double (*two)(double, double)) { steps_.push_back({.kind = Kind::kFunction, .two = two}); }

  void ReadSum() {
    if (++nesting_ > kNestingMax) Fail(fmt::format("is nested deeper than {}", kNestingMax));
    ReadProduct();
    while (true) {
      if (Take('+')) {
        ReadProduct();
        Push([](double a, double b) { return a + b; });
      } else if (Take('-')) {
        ReadProduct();
        Push([](double a, double b) { return a - b; });
      } else {
        break;
      }
    }
    --nesting_;
  }

  void ReadProduct() {
    ReadUnary();
    while (true) {
      if (Take('*')) {
        ReadUnary();
        Push([](double a, double b) { return a * b; });
      } else if (Take('/')) {
        ReadUnary();
        Push([](double a, double b) { return a / b; });
      } else {
        return;
      }
    }
  }

  void ReadUnary() {
    if (!Take('-')) return ReadPower();
    if (++nesting_ > kNestingMax) Fail(fmt::format("is nested deeper than {}", kNestingMax));
    ReadUnary();
    --nesting_;
    steps_.push_back({.kind = Kind::kFunction, .one = [](double a) { return -a; }});
  }

  void ReadPower() {
    ReadPrimary();
    if (!Take('^')) return;
    if (++nesting_ > kNestingMax) Fail(fmt::format("is nested deeper than {}", kNestingMax));
    ReadUnary();
    --nesting_;
    Push([](double a, double b) { return std::pow(a, b); });
  }

  void ReadPrimary() {
    const char c = Peek();
    if (Take('(')) {
      ReadSum();
      Expect(')');
    } else if (std::isdigit(static_cast<unsigned char>(c)) != 0 || c == '.') {
      ReadNumber();
    } else if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      ReadName();
    } else if (c == '\0') {
      Fail("ends where a number should be");
    } else {
      Fail(fmt::format("expected a number, a name or '(' instead of '{}'", c));
    }
  }

  void ReadNumber() {
    double number = 0;
    const auto [stop, error] = std::from_chars(text_.data() + next_, text_.data() + text_.size(), number);
    if (error != std::errc()) Fail("is no number that a double holds");
    next_ = static_cast<std::size_t>(stop - text_.data());
    steps_.push_back({.kind = Kind::kNumber, .number = number});
  }

  void ReadName() {
    static constexpr std::pair<std::string_view, double DepthVariables::*> kVariables[] = {
        {"l", &DepthVariables::l}, {"L", &DepthVariables::L}, {"p", &DepthVariables::p}, {"q", &DepthVariables::q}};
    static constexpr std::pair<std::string_view, double (*)(double)> kOfOne[] = {
        {"sqrt", [](double a) { return std::sqrt(a); }},
        {"log", [](double a) { return std::log(a); }},
        {"exp", [](double a) { return std::exp(a); }},
        {"floor", [](double a) { return std::floor(a); }}};
    static constexpr std::pair<std::string_view, double (*)(double, double)> kOfTwo[] = {
        {"min", [](double a, double b) { return std::min(a, b); }},
        {"max", [](double a, double b) { return std::max(a, b); }}};
    std::size_t end = next_;
    while (end < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[end])) != 0 || text_[end] == '_'))
      ++end;
    const std::string_view name = text_.substr(next_, end - next_);
    for (const auto& [known, variable] : kVariables) {
      if (name != known) continue;
      next_ = end;
      steps_.push_back({.kind = Kind::kVariable, .variable = variable});
      return;
    }
    for (const auto& [known, function] : kOfOne) {
      if (name != known) continue;
      next_ = end;
      Expect('(');
      ReadSum();
      Expect(')');
      steps_.push_back({.kind = Kind::kFunction, .one = function});
      return;
    }
    for (const auto& [known, function] : kOfTwo) {
      if (name != known) continue;
      next_ = end;
      Expect('(');
      ReadSum();
      Expect(',');
      ReadSum();
      Expect(')');
      Push(function);
      return;
    }
    Fail(fmt::format("'{}' is unknown; there are l, L, p, q, sqrt, log, exp, floor, min and max", name));
  }

  std::string_view text_;  // While reading only.
  std::size_t next_ = 0;
  int nesting_ = 0;
  std::vector<Step> steps_;
};

}  // namespace normlab
