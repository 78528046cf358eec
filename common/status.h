// Early return for absl::Status and absl::StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define NORMLAB_STATUS_CONCAT_INNER(a, b) a##b
#define NORMLAB_STATUS_CONCAT(a, b) NORMLAB_STATUS_CONCAT_INNER(a, b)

/// Returns from the enclosing function if `expression` is not OK.
#define NORMLAB_RETURN_IF_ERROR(expression)                                 \
  do {                                                                      \
    if (absl::Status normlab_status = (expression); !normlab_status.ok()) { \
      return normlab_status;                                                \
    }                                                                       \
  } while (false)

/// Assigns the value of a StatusOr to `target` (which may be a declaration), or returns its status. A target with a
/// comma in it needs parentheses or a type alias.
#define NORMLAB_ASSIGN_OR_RETURN(target, expression) \
  NORMLAB_ASSIGN_OR_RETURN_AS(NORMLAB_STATUS_CONCAT(normlab_status_or_, __LINE__), target, expression)

#define NORMLAB_ASSIGN_OR_RETURN_AS(name, target, expression) \
  auto name = (expression);                                   \
  if (!name.ok()) return std::move(name).status();            \
  target = *std::move(name)
