#include "common/http_page.h"

#include <civetweb.h>
#include <fmt/format.h>

namespace normlab {

void WriteHttpPage(mg_connection* connection, const HttpPage& page) {
  const char* reason = page.code == 200 ? "OK" : "Service Unavailable";
  const std::string head = fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: "
      "close\r\n\r\n",
      page.code, reason, page.type, page.body.size());
  mg_write(connection, head.data(), head.size());
  mg_write(connection, page.body.data(), page.body.size());
}

std::string AcceptOf(mg_connection* connection) {
  const char* accept = mg_get_header(connection, "Accept");
  return accept == nullptr ? "" : accept;
}

}  // namespace normlab
