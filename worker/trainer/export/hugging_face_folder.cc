#include "worker/trainer/export/hugging_face_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kModelFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

json ReadJson(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  json document = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object()) throw std::runtime_error(fmt::format("{} is no JSON object", path.string()));
  return document;
}

/// Settings of config.json with what the transformers library takes where one is absent or null.
class Config {
 public:
  explicit Config(const fs::path& path) : path_(path), document_(ReadJson(path)) {}

  int64_t Int(const std::string& key, int64_t otherwise) const { return Get(key, otherwise); }
  int64_t Int(const std::string& key) const {
    if (Find(document_, key) == nullptr) throw PermanentError(fmt::format("{} does not say {}", path_.string(), key));
    return Get(key, int64_t{0});
  }
  double Number(const std::string& key, double otherwise) const { return Get(key, otherwise); }
  bool Bool(const std::string& key, bool otherwise) const { return Get(key, otherwise); }
  std::string Text(const std::string& key, const std::string& otherwise) const { return Get(key, otherwise); }

  /// The rotary base. Refuses rotary positions that are scaled.
  double RopeBase() const {
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      const json* rope = Find(document_, key);
      if (rope == nullptr) continue;
      const std::string type = rope->value("rope_type", rope->value("type", "default"));
      if (type != "default") Refuse(fmt::format("{}.rope_type", key), type);
      if (const json* theta = Find(*rope, "rope_theta")) return theta->get<double>();
    }
    return Number("rope_theta", 10000);
  }

  [[noreturn]] void Refuse(const std::string& key, const std::string& value) const {
    throw PermanentError(
        fmt::format("{}: {} is {}, which this trainer's Llama does not compute", path_.string(), key, value));
  }

 private:
  static const json* Find(const json& object, const std::string& key) {
    const auto member = object.find(key);
    return member == object.end() || member->is_null() ? nullptr : &*member;
  }
  template <typename T>
  T Get(const std::string& key, const T& otherwise) const {
    const json* value = Find(document_, key);
    try {
      return value == nullptr ? otherwise : value->get<T>();
    } catch (const json::exception& error) {
      throw PermanentError(fmt::format("{}: {}: {}", path_.string(), key, error.what()));
    }
  }

  fs::path path_;
  json document_;
};

/// Each of `rows` / `repeats` heads' rows stands there once; makes `repeats` copies of each, one after another.
void RepeatHeads(std::span<const float> once, int64_t head_size, int64_t repeats, std::span<float> values) {
  auto next = values.begin();
  for (size_t begin = 0; begin < once.size(); begin += static_cast<size_t>(head_size)) {
    for (int64_t i = 0; i < repeats; ++i) {
      next = std::copy_n(once.begin() + static_cast<std::ptrdiff_t>(begin), head_size, next);
    }
  }
}

}  // namespace

HuggingFaceFolder::HuggingFaceFolder(const fs::path& path) : path_(path) {
  ReadConfig(path / "config.json");
  OpenWeights(path);
}

void HuggingFaceFolder::ReadConfig(const fs::path& path) {
  const Config config(path);
  if (const std::string type = config.Text("model_type", ""); type != "llama") config.Refuse("model_type", type);
  if (const std::string act = config.Text("hidden_act", "silu"); act != "silu") config.Refuse("hidden_act", act);
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    if (config.Bool(key, false)) config.Refuse(key, "true");
  }
  model_.family = "llama";
  model_.num_layers = static_cast<int>(config.Int("num_hidden_layers"));
  model_.hidden = config.Int("hidden_size");
  model_.num_heads = config.Int("num_attention_heads");
  model_.ffn_hidden = config.Int("intermediate_size");
  model_.rope_base = config.RopeBase();
  model_.norm_eps = config.Number("rms_norm_eps", 1e-6);
  model_.init_std = config.Number("initializer_range", 0.02);
  model_.embed_init_std = model_.init_std;
  norm_.scheme = "pre_ln";
  norm_.final_norm = true;
  vocab_size_ = config.Int("vocab_size");
  max_positions_ = config.Int("max_position_embeddings", 2048);
  num_kv_heads_ = config.Int("num_key_value_heads", model_.num_heads);
  is_head_tied_ = config.Bool("tie_word_embeddings", false);
  const bool is_possible = model_.num_layers > 0 && model_.hidden > 0 && model_.num_heads > 0 && num_kv_heads_ > 0 &&
                           vocab_size_ > 0 && model_.hidden % model_.num_heads == 0 &&
                           model_.num_heads % num_kv_heads_ == 0;
  if (!is_possible) {
    throw PermanentError(
        fmt::format("{}: num_hidden_layers {}, hidden_size {}, num_attention_heads {}, num_key_value_heads {} and "
                    "vocab_size {} give no model",
                    path.string(), model_.num_layers, model_.hidden, model_.num_heads, num_kv_heads_, vocab_size_));
  }
  const int64_t head_dim = model_.hidden / model_.num_heads;
  if (const int64_t wanted = config.Int("head_dim", head_dim); wanted != head_dim) {
    config.Refuse("head_dim", fmt::format("{} and not hidden_size / num_attention_heads = {}", wanted, head_dim));
  }
}

void HuggingFaceFolder::OpenWeights(const fs::path& folder) {
  std::vector<std::string> names = {kModelFile};
  if (fs::exists(folder / kIndexFile)) {
    names.clear();
    const json weight_map = ReadJson(folder / kIndexFile).value("weight_map", json::object());
    for (const auto& [parameter, file] : weight_map.items()) {
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
        throw std::runtime_error(
            fmt::format("{}: the file of {} is no plain name", (folder / kIndexFile).string(), parameter));
      }
      names.push_back(file);
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
  }
  for (const std::string& name : names) {
    const auto [file, unused] = files_.emplace(name, SafetensorsReader(folder / name));
    for (const std::string& parameter : file->second.Names()) file_of_[parameter] = name;
  }
}

const SafetensorsReader& HuggingFaceFolder::FileOf(const std::string& name) const {
  const auto file = file_of_.find(name);
  if (file == file_of_.end()) {
    throw std::runtime_error(
        fmt::format("{} has no float array \"{}\" in its {} file(s)", path_.string(), name, files_.size()));
  }
  return files_.at(file->second);
}

void HuggingFaceFolder::Read(const std::string& name, const std::vector<int64_t>& shape,
                             std::span<float> values) const {
  const bool is_shared =
      num_kv_heads_ != model_.num_heads && (name.ends_with(".k_proj.weight") || name.ends_with(".v_proj.weight"));
  if (is_shared) {
    const int64_t repeats = model_.num_heads / num_kv_heads_;
    std::vector<float> once(values.size() / static_cast<size_t>(repeats));
    FileOf(name).Read(name, {shape[0] / repeats, shape[1]}, once);
    RepeatHeads(once, model_.hidden / model_.num_heads * shape[1], repeats, values);
    return;
  }
  const std::string stored = is_head_tied_ && name == "lm_head.weight" ? "model.embed_tokens.weight" : name;
  FileOf(stored).Read(stored, shape, values);
}

}  // namespace normlab::trainer
