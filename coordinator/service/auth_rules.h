#pragma once

#include <optional>
#include <string_view>

// Who may call what: one row per method. A method without a row cannot be served (see Guard).
namespace normlab::service {

/// What a token allows. A submitter may do all that a viewer may, an operator all that a submitter may. A worker may
/// hold a session, and nothing else.
enum class Role { kViewer, kSubmitter, kOperator, kWorker };

enum class Access {
  kOpen,      // Without a token.
  kAnyToken,  // With any.
  kViewer,    // With this role or one that includes it.
  kSubmitter,
  kOperator,
  kWorker,
};

struct MethodRule {
  std::string_view method;  // Below normlab.v1, or with its whole name.
  Access access;
  bool is_change;  // Goes into the audit log whatever comes of it. Refusals go there in any case.
};

inline constexpr MethodRule kMethodRules[] = {
    {"ExperimentService/CreateExperiment", Access::kSubmitter, true},
    {"ExperimentService/GetExperiment", Access::kViewer, false},
    {"ExperimentService/ListExperiments", Access::kViewer, false},
    // A submitter's own runs only: see RestrictToOwn.
    {"RunService/CancelRuns", Access::kSubmitter, true},
    {"RunService/RequeueRuns", Access::kSubmitter, true},
    {"RunService/UpdateRuns", Access::kSubmitter, true},
    {"RunService/RecordAnalysis", Access::kSubmitter, true},
    {"RunService/ListQueue", Access::kViewer, false},
    {"RunService/GetRun", Access::kViewer, false},
    {"RunService/ListRuns", Access::kViewer, false},
    {"RunService/WatchRuns", Access::kViewer, false},
    {"RunService/ListEvents", Access::kViewer, false},
    {"RunService/StreamLogs", Access::kViewer, false},
    {"RunService/GetMetrics", Access::kViewer, false},
    {"RunService/GetHistorySummary", Access::kViewer, false},
    {"WorkerService/Session", Access::kWorker, true},
    {"WorkerService/ListWorkers", Access::kViewer, false},
    {"AdminService/GetInfo", Access::kAnyToken, false},
    {"AdminService/WhoAmI", Access::kAnyToken, false},
    {"AdminService/SetWorkerCordon", Access::kOperator, true},
    {"AdminService/CreateToken", Access::kOperator, true},
    {"AdminService/ListTokens", Access::kOperator, false},
    {"AdminService/RevokeToken", Access::kOperator, true},
    {"BackupService/CreateBackup", Access::kOperator, true},
    {"BackupService/ListBackups", Access::kOperator, false},
    {"BackupService/VerifyBackup", Access::kOperator, false},
    // gRPC's own. Probes have no token, and reflection shows nothing but the published contract.
    {"grpc.health.v1.Health/Check", Access::kOpen, false},
    {"grpc.health.v1.Health/Watch", Access::kOpen, false},
    {"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Access::kOpen, false},
};

/// The row of "RunService/GetRun"; null if there is none.
constexpr const MethodRule* FindMethodRule(std::string_view method) {
  for (const MethodRule& rule : kMethodRules) {
    if (rule.method == method) return &rule;
  }
  return nullptr;
}

/// Whether a token of `role` gives `access`.
constexpr bool Gives(Role role, Access access) {
  switch (access) {
    case Access::kOpen:
    case Access::kAnyToken:
      return true;
    case Access::kViewer:
      return role != Role::kWorker;
    case Access::kSubmitter:
      return role == Role::kSubmitter || role == Role::kOperator;
    case Access::kOperator:
      return role == Role::kOperator;
    case Access::kWorker:
      return role == Role::kWorker;
  }
  return false;
}

constexpr std::string_view Name(Role role) {
  constexpr std::string_view kNames[] = {"viewer", "submitter", "operator", "worker"};
  return kNames[static_cast<int>(role)];
}

constexpr std::optional<Role> ParseRole(std::string_view name) {
  for (const Role role : {Role::kViewer, Role::kSubmitter, Role::kOperator, Role::kWorker}) {
    if (Name(role) == name) return role;
  }
  return std::nullopt;
}

/// The least role that gives `access`, for messages.
constexpr std::string_view RoleFor(Access access) {
  for (const Role role : {Role::kViewer, Role::kSubmitter, Role::kOperator, Role::kWorker}) {
    if (Gives(role, access)) return Name(role);
  }
  return "no";
}

}  // namespace normlab::service
