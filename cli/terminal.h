// What we know about the terminal, and colours.
#pragma once

#include <string>
#include <string_view>

namespace normlab::cli {

enum class Style { kPlain, kBold, kDim, kRed, kGreen, kYellow, kCyan };

/// `text` in that style, or as it is if `is_colored` is false.
std::string Paint(std::string_view text, Style style, bool is_colored);

/// True if `fd` is a terminal that can do more than print lines (TERM is not dumb).
bool IsTerminal(int fd);
/// True if `fd` is a terminal and NO_COLOR (no-color.org) is not set.
bool WantsColor(int fd);
/// True if the locale (LC_ALL, LC_CTYPE, LANG, in this order) says UTF-8.
bool WantsUnicode();
/// Columns and rows of the terminal `fd`; 80 x 24 if it does not say.
struct TerminalSize {
  int columns = 80;
  int rows = 24;
};
TerminalSize SizeOfTerminal(int fd);

/// Columns that UTF-8 text takes, one per code point; escape sequences of Paint take none.
int DisplayWidth(std::string_view text);
/// At most `width` columns of `text` (which must not be painted), the last of them an ellipsis if something is cut off.
std::string Truncate(std::string_view text, int width);
/// `text` with control characters (but tabs) replaced by '?': what came over the network must not drive the terminal.
std::string Printable(std::string_view text);

}  // namespace normlab::cli
