// Who may do what, over a real gRPC server: every method of the contract with every role, found by reflection.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "common/testing/fake_clock.h"
#include "common/token.h"
#include "coordinator/loop.h"
#include "coordinator/service/auth_audit.h"
#include "coordinator/service/limits.h"
#include "coordinator/service/server.h"
#include "coordinator/service/testing/sample_commands.h"
#include "coordinator/store/memory_store.h"

namespace normlab::service {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

constexpr Role kRoles[] = {Role::kViewer, Role::kSubmitter, Role::kOperator, Role::kWorker};

/// "RunService/GetRun" for every method of the contract's services.
std::vector<std::string> AllMethods() {
  std::vector<std::string> methods;
  for (const auto* file : {v1::GetInfoRequest::descriptor()->file(), v1::GetRunRequest::descriptor()->file(),
                           v1::GetExperimentRequest::descriptor()->file(), v1::ListWorkersRequest::descriptor()->file(),
                           v1::ListBackupsRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.push_back(file->service(s)->name() + "/" + file->service(s)->method(m)->name());
      }
    }
  }
  return methods;
}

class AuthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    store_ = *store::OpenMemoryStore(std::make_shared<store::MemoryDisk>());
    tokens_ = *TokenStore::Open(folder_ / "tokens.json", clock_);
    audit_ = *AuditLog::Open(folder_ / "audit", {});
  }

  void Start(double requests_per_second = 0) {
    loop_ = *Loop::Create(engine::Options(), *store_, clock_, metrics_);
    server_ = std::make_unique<Server>(*loop_, *store_,
                                       Server::Options{.address = {.host = "127.0.0.1"},
                                                       .guard = {.clock = &clock_,
                                                                 .tokens = tokens_.get(),
                                                                 .audit = audit_.get(),
                                                                 .requests_per_second = requests_per_second}});
    for (TickListener* listener : server_->listeners()) loop_->AddListener(listener);
    ASSERT_TRUE(server_->Listen().ok());
    loop_thread_ = std::thread([this] { EXPECT_TRUE(loop_->Run().ok()); });
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    runs_ = v1::RunService::NewStub(channel_);
    experiments_ = v1::ExperimentService::NewStub(channel_);
    admin_ = v1::AdminService::NewStub(channel_);
  }

  void TearDown() override {
    if (!server_) return;
    server_->Shutdown(absl::Seconds(1));
    loop_->Stop();
    loop_thread_.join();
    std::filesystem::remove_all(folder_);
  }

  std::string Make(const std::string& name, Role role) {
    return tokens_->Create(name, role, std::nullopt, "test")->token;
  }

  static void Authorize(grpc::ClientContext& context, const std::string& token) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
  }

  /// One call with an empty request, or without any for a stream of requests.
  grpc::Status CallAny(const std::string& method, const std::string& token) {
    grpc::GenericStub stub(channel_);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    Authorize(context, token);
    // One operation at a time: each is started and then waited for.
    const auto is_ok = [&queue] {
      void* tag;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    auto call = stub.PrepareCall(&context, "/normlab.v1." + method, &queue);
    call->StartCall(nullptr);
    is_ok();
    if (method == "WorkerService/Session") {
      call->WritesDone(nullptr);
    } else {
      const grpc::Slice empty;
      call->WriteLast(grpc::ByteBuffer(&empty, 1), {}, nullptr);
    }
    is_ok();
    grpc::ByteBuffer answer;
    while (call->Read(&answer, nullptr), is_ok()) {
      // An admitted watch of everything would never end.
      if (method == "RunService/WatchRuns") context.TryCancel();
    }
    grpc::Status status;
    call->Finish(&status, nullptr);
    is_ok();
    return status;
  }

  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(const Stub& stub, const std::string& token,
                    grpc::Status (Stub::element_type::*method)(grpc::ClientContext*, const Request&, Response*),
                    const std::type_identity_t<Request>& request, std::type_identity_t<Response>* response) {
    grpc::ClientContext context;
    Authorize(context, token);
    return (stub.get()->*method)(&context, request, response);
  }

  std::string Submit(const std::string& token, const std::string& claimed_owner) {
    v1::CreateExperimentRequest request;
    *request.mutable_spec() = MakeSpec();
    request.set_request_id("r-" + claimed_owner);
    request.set_owner(claimed_owner);
    v1::CreateExperimentResponse response;
    grpc::ClientContext context;
    Authorize(context, token);
    const grpc::Status status = experiments_->CreateExperiment(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.experiment().id();
  }

  grpc::Status Cancel(const std::string& token, const v1::RunSelector& selector, v1::ChangeRunsResponse* response) {
    v1::CancelRunsRequest request;
    *request.mutable_selector() = selector;
    request.set_actor("somebody");
    grpc::ClientContext context;
    Authorize(context, token);
    return runs_->CancelRuns(&context, request, response);
  }

  static v1::RunSelector Of(const std::string& experiment) {
    v1::RunSelector selector;
    selector.set_experiment_id(experiment);
    return selector;
  }

  std::vector<nlohmann::json> AuditLines() {
    std::ifstream file(folder_ / "audit" / "audit.jsonl");
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) /
      ("auth_" + std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()));
  FakeClock clock_;
  Metrics metrics_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<TokenStore> tokens_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Server> server_;
  std::thread loop_thread_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::RunService::Stub> runs_;
  std::unique_ptr<v1::ExperimentService::Stub> experiments_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST(AuthRulesTest, NameEveryMethodOfTheContractOnce) {
  for (const std::string& method : AllMethods()) {
    EXPECT_EQ(std::count_if(std::begin(kMethodRules), std::end(kMethodRules),
                            [&](const MethodRule& rule) { return rule.method == method; }),
              1)
        << method;
  }
}

TEST(AuthRulesTest, NothingThatChangesIsOpenToViewers) {
  for (const MethodRule& rule : kMethodRules) {
    EXPECT_FALSE(rule.is_change && (rule.access == Access::kOpen || Gives(Role::kViewer, rule.access))) << rule.method;
  }
}

TEST_F(AuthTest, EveryMethodAdmitsExactlyTheRolesOfItsRule) {
  Start();
  std::map<Role, std::string> tokens;
  for (const Role role : kRoles) tokens[role] = Make(std::string(Name(role)), role);
  ASSERT_THAT(AllMethods(), Not(IsEmpty()));
  for (const std::string& method : AllMethods()) {
    const MethodRule* rule = FindMethodRule(method);
    ASSERT_NE(rule, nullptr) << method;
    EXPECT_EQ(CallAny(method, "").error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
    EXPECT_EQ(CallAny(method, NewToken().ToString()).error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
    for (const auto& [role, token] : tokens) {
      const grpc::Status status = CallAny(method, token);
      EXPECT_NE(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << method;
      EXPECT_NE(status.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
      EXPECT_EQ(status.error_code() == grpc::StatusCode::PERMISSION_DENIED, !Gives(role, rule->access))
          << method << " " << Name(role) << ": " << status.error_message();
    }
  }
}

TEST_F(AuthTest, AMethodThatNobodyServesIsUnimplemented) {
  Start();
  EXPECT_EQ(CallAny("RunService/Nothing", Make("root", Role::kOperator)).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(CallAny("RunService/Nothing", "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(AuthTest, TheOwnerComesFromTheTokenAndNotFromTheClaim) {
  Start();
  const std::string ada = Make("ada", Role::kSubmitter);
  const std::string id = Submit(ada, "root");
  v1::GetExperimentRequest request;
  request.set_id(id);
  v1::Experiment experiment;
  grpc::ClientContext context;
  Authorize(context, ada);
  ASSERT_TRUE(experiments_->GetExperiment(&context, request, &experiment).ok());
  EXPECT_EQ(experiment.owner(), "ada");
  v1::ChangeRunsResponse changes;
  ASSERT_TRUE(Cancel(ada, Of(id), &changes).ok());
  const auto events = *store_->Events(kFirstRun);
  EXPECT_EQ(events.back().actor(), "user:ada");
}

TEST_F(AuthTest, ASubmitterChangesOwnRunsOnlyAndAnOperatorAll) {
  Start();
  const std::string ada = Make("ada", Role::kSubmitter), bob = Make("bob", Role::kSubmitter);
  const std::string of_ada = Submit(ada, "ada"), of_bob = Submit(bob, "bob");
  v1::ChangeRunsResponse changes;
  const grpc::Status refused = Cancel(bob, Of(of_ada), &changes);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_THAT(refused.error_message(), HasSubstr("exp-0001.01 is ada's"));
  // A choice that has one run of somebody else is refused as a whole.
  v1::RunSelector both;
  both.add_run_ids("exp-0001.01");
  both.add_run_ids("exp-0002.01");
  EXPECT_EQ(Cancel(bob, both, &changes).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Cancel(bob, Of("exp-0009"), &changes).error_code(), grpc::StatusCode::NOT_FOUND);
  const grpc::Status own = Cancel(bob, Of(of_bob), &changes);
  EXPECT_TRUE(own.ok()) << own.error_message();
  EXPECT_EQ(changes.changes_size(), 2);
  EXPECT_TRUE(Cancel(Make("root", Role::kOperator), Of(of_ada), &changes).ok());
}

TEST_F(AuthTest, ARevokedTokenIsRefusedAndItsStreamsEnd) {
  Start();
  const std::string token = Make("ada", Role::kViewer);
  const std::string id = ParseToken(token)->id;
  Submit(Make("bob", Role::kSubmitter), "bob");  // A watch of nothing ends at once.
  grpc::ClientContext context;
  Authorize(context, token);
  const auto watch = runs_->WatchRuns(&context, v1::WatchRunsRequest());
  v1::WatchRunsResponse first;
  ASSERT_TRUE(watch->Read(&first));
  v1::RevokeTokenRequest request;
  request.set_id(id);
  v1::RevokeTokenResponse response;
  grpc::ClientContext revoke;
  Authorize(revoke, Make("root", Role::kOperator));
  ASSERT_TRUE(admin_->RevokeToken(&revoke, request, &response).ok());
  while (watch->Read(&first)) {
  }
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(CallAny("AdminService/GetInfo", token).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(AuthTest, ATokenIsOverAtItsExpiryAndNotBefore) {
  const std::string token = tokens_->Create("ada", Role::kViewer, absl::Hours(1), "test")->token;
  clock_.Advance(absl::Hours(1) - absl::Seconds(1));
  EXPECT_TRUE(tokens_->Authenticate(token).ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(absl::IsUnauthenticated(tokens_->Authenticate(token).status()));
}

TEST_F(AuthTest, WhatAnotherProcessWritesIsSeenWithinASecond) {
  const auto other = *TokenStore::Open(folder_ / "tokens.json", clock_);
  const auto created = *other->Create("ada", Role::kViewer, std::nullopt, "other");
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(tokens_->Authenticate(created.token).ok());
  ASSERT_TRUE(other->Revoke(created.record.id).ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_FALSE(tokens_->Authenticate(created.token).ok());
}

TEST_F(AuthTest, ATokenThatWasMadeElsewhereIsImportedOnceAndWithoutItsSecret) {
  const Token made = NewToken();
  ASSERT_TRUE(tokens_->Import(made.ToString(), "pool", Role::kViewer, "test").ok());
  // Again, as at each start, with another role: the same token.
  ASSERT_TRUE(tokens_->Import(made.ToString(), "pool", Role::kWorker, "test").ok());
  ASSERT_THAT(tokens_->List(), testing::SizeIs(1));
  const auto caller = tokens_->Authenticate(made.ToString());
  ASSERT_TRUE(caller.ok());
  EXPECT_EQ(caller->name, "pool");
  EXPECT_EQ(caller->role, Role::kWorker);
  std::stringstream text;
  text << std::ifstream(folder_ / "tokens.json").rdbuf();
  EXPECT_THAT(text.str(), Not(HasSubstr(made.secret)));
}

TEST_F(AuthTest, ATokenOfAKnownIdWithAnotherSecretIsNotImported) {
  const Token made = NewToken();
  ASSERT_TRUE(tokens_->Import(made.ToString(), "pool", Role::kWorker, "test").ok());
  const Token other{.id = made.id, .secret = NewToken().secret};
  EXPECT_TRUE(absl::IsAlreadyExists(tokens_->Import(other.ToString(), "eve", Role::kOperator, "test").status()));
  EXPECT_FALSE(tokens_->Authenticate(other.ToString()).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(tokens_->Import("hunter2", "eve", Role::kOperator, "test").status()));
}

TEST_F(AuthTest, ADamagedFileIsRefusedAtStartAndPassedOverLater) {
  const std::string token = Make("ada", Role::kViewer);
  std::ofstream(folder_ / "tokens.json", std::ios::trunc) << "{\"format\": \"normlab-tok";
  clock_.Advance(absl::Seconds(2));
  EXPECT_TRUE(tokens_->Authenticate(token).ok());
  const absl::Status status = TokenStore::Open(folder_ / "tokens.json", clock_).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens.json is damaged"));
}

TEST_F(AuthTest, NeitherTheFileNorTheAuditLogHasAToken) {
  Start();
  const std::string root = Make("root", Role::kOperator);
  v1::CreateTokenRequest request;
  request.set_name("ada");
  request.set_role(v1::SUBMITTER);
  v1::CreateTokenResponse response;
  grpc::ClientContext context;
  Authorize(context, root);
  ASSERT_TRUE(admin_->CreateToken(&context, request, &response).ok());
  ASSERT_TRUE(ParseToken(response.token()).has_value());
  EXPECT_EQ(response.info().created_by(), "root");
  Submit(response.token(), "ada");
  for (const auto& path : {folder_ / "tokens.json", folder_ / "audit" / "audit.jsonl"}) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    for (const std::string& token : {root, response.token()}) {
      EXPECT_THAT(text.str(), Not(HasSubstr(ParseToken(token)->secret))) << path;
    }
    EXPECT_THAT(text.str(), HasSubstr("ada"));
  }
}

TEST_F(AuthTest, TheAuditLogSaysWhoChangedWhatWithWhichResult) {
  Start();
  const std::string ada = Make("ada", Role::kSubmitter);
  const std::string id = Submit(ada, "ada");
  v1::ChangeRunsResponse changes;
  Cancel(Make("bob", Role::kSubmitter), Of(id), &changes);
  CallAny("AdminService/GetInfo", "");
  CallAny("AdminService/GetInfo", ada);  // Reads are not audited.
  const auto lines = AuditLines();
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_EQ(lines[0]["who"], "ada");
  EXPECT_EQ(lines[0]["role"], "submitter");
  EXPECT_EQ(lines[0]["method"], "ExperimentService/CreateExperiment");
  EXPECT_EQ(lines[0]["result"], "OK");
  EXPECT_EQ(lines[0]["request"]["spec"]["name"], "depth");
  EXPECT_EQ(lines[0]["response"]["experiment"]["id"], id);
  EXPECT_EQ(lines[1]["who"], "bob");
  EXPECT_EQ(lines[1]["result"], "PERMISSION_DENIED");
  EXPECT_EQ(lines[1]["request"]["selector"]["experiment_id"], id);
  EXPECT_EQ(lines[2]["result"], "UNAUTHENTICATED");
  EXPECT_EQ(lines[2]["method"], "AdminService/GetInfo");
}

TEST_F(AuthTest, RefusalsCannotFillTheAuditLog) {
  Start();
  for (int i = 0; i < 2 * kAuditedRefusalsBurst; ++i) CallAny("AdminService/GetInfo", "");
  EXPECT_THAT(AuditLines(), SizeIs(kAuditedRefusalsBurst));
  clock_.Advance(absl::Seconds(1));
  CallAny("AdminService/GetInfo", "");
  EXPECT_EQ(AuditLines()[kAuditedRefusalsBurst]["method"], "100 more refused calls");
}

TEST_F(AuthTest, RequestsPastTheRateOfATokenAreRefusedUntilTimeGoesOn) {
  Start(/*requests_per_second=*/3);
  const std::string ada = Make("ada", Role::kViewer), bob = Make("bob", Role::kViewer);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(CallAny("AdminService/GetInfo", ada).ok());
  const grpc::Status refused = CallAny("AdminService/GetInfo", ada);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("3 requests per second"));
  EXPECT_TRUE(CallAny("AdminService/GetInfo", bob).ok()) << "another token has a rate of its own";
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(CallAny("AdminService/GetInfo", ada).ok());
}

TEST_F(AuthTest, ListsPastTheirLimitAreRefusedWithTheNumber) {
  Start();
  const std::string ada = Make("ada", Role::kViewer);
  v1::ListRunsRequest request;
  request.set_page_size(kPageSizeMax + 1);
  v1::ListRunsResponse response;
  grpc::ClientContext context;
  Authorize(context, ada);
  const grpc::Status status = runs_->ListRuns(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("1000"));
}

TEST_F(AuthTest, AMessageThatIsTooLargeIsRefusedWithTheNumber) {
  Start();
  v1::CancelRunsRequest request;
  request.set_reason(std::string(kMessageBytesMax, 'x'));
  v1::ChangeRunsResponse response;
  grpc::ClientContext context;
  Authorize(context, Make("ada", Role::kSubmitter));
  const grpc::Status status = runs_->CancelRuns(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr(std::to_string(kMessageBytesMax)));
}

TEST_F(AuthTest, StreamsPastTheLimitOfAClientAreRefusedUntilOneEnds) {
  Start();
  const std::string ada = Make("ada", Role::kViewer);
  Submit(Make("bob", Role::kSubmitter), "bob");  // A watch of nothing ends at once.
  struct Watch {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<v1::WatchRunsResponse>> reader;
  };
  std::vector<std::unique_ptr<Watch>> watches;
  v1::WatchRunsResponse first;
  // More than one connection: gRPC bounds the streams of one, too.
  auto other =
      v1::RunService::NewStub(grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), [] {
        grpc::ChannelArguments arguments;
        arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
        return arguments;
      }()));
  const auto open = [&](v1::RunService::Stub& stub) {
    auto watch = std::make_unique<Watch>();
    Authorize(watch->context, ada);
    watch->reader = stub.WatchRuns(&watch->context, v1::WatchRunsRequest());
    const bool is_open = watch->reader->Read(&first);
    if (is_open) watches.push_back(std::move(watch));
    return is_open ? grpc::Status::OK : watch->reader->Finish();
  };
  for (int i = 0; i < kStreamsPerClientMax; ++i) ASSERT_TRUE(open(i % 2 == 0 ? *runs_ : *other).ok()) << i;
  const grpc::Status refused = open(*other);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("1000"));
  for (const auto& watch : watches) watch->context.TryCancel();
}

}  // namespace
}  // namespace normlab::service
