// Answers of our HTTP servers, which CivetWeb carries.
#pragma once

#include <string>

struct mg_connection;

namespace normlab {

/// 200 or 503.
struct HttpPage {
  int code = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
};

/// The whole answer, and nothing after it on this connection.
void WriteHttpPage(mg_connection* connection, const HttpPage& page);

/// The request's Accept header; empty without.
std::string AcceptOf(mg_connection* connection);

}  // namespace normlab
