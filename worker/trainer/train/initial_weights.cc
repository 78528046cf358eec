#include "worker/trainer/train/initial_weights.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "worker/trainer/spec.h"
#include "worker/trainer/train/checkpoint.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;

constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";

bool HoldsCheckpoints(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (CheckpointName::Parse(entry.path().filename().string())) return true;
  }
  return false;
}

/// The shards that an index names, each once.
std::set<std::string> ShardsOf(const fs::path& index) {
  std::ifstream file(index);
  const nlohmann::json document = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  std::set<std::string> shards;
  if (document.is_object() && document.contains("weight_map") && document["weight_map"].is_object()) {
    for (const auto& [name, shard] : document["weight_map"].items()) {
      if (shard.is_string()) shards.insert(shard.get<std::string>());
    }
  }
  if (shards.empty()) throw PermanentError(fmt::format("{} names no file of weights in weight_map", index.string()));
  return shards;
}

/// Computed from the shape, and stored by old versions of transformers all the same.
bool IsBuffer(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

}  // namespace

InitialWeights::InitialWeights(const fs::path& folder, EventSink& events) {
  try {
    if (fs::exists(folder / "state.json")) {
      source_ = fmt::format("checkpoint {}", folder.filename().string());
      Add(VerifyCheckpoint(folder).model_file);
    } else if (HoldsCheckpoints(folder)) {
      // As an attempt before all others it removes nothing.
      CheckpointFolder checkpoints({.path = folder, .attempt = 0, .resume_from_attempt = 0, .kept = 1});
      const auto newest = checkpoints.FindNewest(events);
      if (!newest) throw PermanentError(fmt::format("{} has no checkpoint that is whole", folder.string()));
      source_ = fmt::format("checkpoint {} of {}", newest->name, folder.filename().string());
      Add(newest->model_file);
    } else if (fs::exists(folder / "model.safetensors.index.json")) {
      source_ = fmt::format("Hugging Face folder {}", folder.filename().string());
      for (const std::string& shard : ShardsOf(folder / "model.safetensors.index.json")) Add(folder / shard);
    } else if (fs::exists(folder / "model.safetensors")) {
      source_ = fmt::format("Hugging Face folder {}", folder.filename().string());
      Add(folder / "model.safetensors");
    } else {
      throw PermanentError(
          fmt::format("train.init_from: {} holds no checkpoint (step-*), no model.safetensors and no "
                      "model.safetensors.index.json",
                      folder.string()));
    }
  } catch (const PermanentError&) {
    throw;
  } catch (const std::exception& error) {
    throw PermanentError(fmt::format("train.init_from: {}", error.what()));
  }
}

void InitialWeights::Add(const fs::path& file) {
  files_.push_back(std::make_unique<SafetensorsReader>(file));
  for (const std::string& name : files_.back()->Names()) places_[name] = {.file = files_.back().get()};
}

void InitialWeights::Read(const std::string& name, const std::vector<int64_t>& shape, std::span<float> values) {
  auto place = places_.find(name);
  if (place == places_.end() && name == kHead) place = places_.find(kEmbedding);
  if (place == places_.end()) {
    throw PermanentError(fmt::format(
        "train.init_from: {} has no array \"{}\": is it a model of another family or depth?", source_, name));
  }
  try {
    place->second.file->Read(place->first, shape, values);
  } catch (const std::exception& error) {
    throw PermanentError(fmt::format("train.init_from: {}", error.what()));
  }
  place->second.was_read = true;
}

void InitialWeights::RequireAllRead() const {
  std::vector<std::string> left;
  for (const auto& [name, place] : places_) {
    if (!place.was_read && !IsBuffer(name)) left.push_back(name);
  }
  if (left.empty()) return;
  throw PermanentError(
      fmt::format("train.init_from: {} has {} arrays that the spec's model has no place for, the first is \"{}\": give "
                  "the spec its "
                  "shape",
                  source_, left.size(), left.front()));
}

}  // namespace normlab::trainer
