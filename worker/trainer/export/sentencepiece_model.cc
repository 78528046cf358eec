#include "worker/trainer/export/sentencepiece_model.h"

#include <fmt/format.h>

#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "common/durable_file.h"

namespace normlab::trainer {
namespace {

/// Walks over the fields of one encoded protobuf message. Throws std::runtime_error at a byte that cannot be one.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  /// Moves to the next field; false at the end.
  bool Next() {
    if (bytes_.empty()) return false;
    const uint64_t key = Varint();
    number_ = static_cast<int>(key >> 3);
    value_ = 0;
    data_ = {};
    switch (key & 7) {
      case 0:
        value_ = Varint();
        return true;
      case 1:
        data_ = Take(8);
        return true;
      case 2:
        data_ = Take(Varint());
        return true;
      case 5:
        data_ = Take(4);
        return true;
      default:
        throw std::runtime_error("a field has an unknown wire type");
    }
  }

  int number() const { return number_; }
  uint64_t value() const { return value_; }
  std::string_view data() const { return data_; }
  float AsFloat() const {
    if (data_.size() != sizeof(float)) throw std::runtime_error("a score is not four bytes");
    float value;
    std::memcpy(&value, data_.data(), sizeof(value));
    return value;
  }

 private:
  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(Take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw std::runtime_error("a number has no end");
  }
  std::string_view Take(uint64_t size) {
    if (size > bytes_.size()) throw std::runtime_error("it is cut short");
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }

  std::string_view bytes_;
  int number_ = 0;
  uint64_t value_ = 0;
  std::string_view data_;
};

// Field numbers of sentencepiece_model.proto.
namespace model_field {
constexpr int kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3;
}
namespace piece_field {
constexpr int kPiece = 1, kScore = 2, kType = 3;
}
namespace trainer_field {
constexpr int kModelType = 3;
}
namespace normalizer_field {
constexpr int kCharacterMap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4, kEscapeWhitespaces = 5;
}

SentencePieceModel::Piece ReadPiece(Message message) {
  SentencePieceModel::Piece piece;
  while (message.Next()) {
    if (message.number() == piece_field::kPiece) piece.text = message.data();
    if (message.number() == piece_field::kScore) piece.score = message.AsFloat();
    if (message.number() == piece_field::kType) {
      piece.type = static_cast<SentencePieceModel::PieceType>(message.value());
    }
  }
  return piece;
}

void ReadNormalizer(Message message, SentencePieceModel* model) {
  while (message.Next()) {
    const bool is_set = message.value() != 0;
    if (message.number() == normalizer_field::kCharacterMap) model->has_character_map = !message.data().empty();
    if (message.number() == normalizer_field::kAddDummyPrefix) model->adds_dummy_prefix = is_set;
    if (message.number() == normalizer_field::kRemoveExtraWhitespaces) model->removes_extra_whitespaces = is_set;
    if (message.number() == normalizer_field::kEscapeWhitespaces) model->escapes_whitespaces = is_set;
  }
}

SentencePieceModel ReadModel(Message message) {
  SentencePieceModel model;
  while (message.Next()) {
    if (message.number() == model_field::kPieces) model.pieces.push_back(ReadPiece(Message(message.data())));
    if (message.number() == model_field::kNormalizerSpec) ReadNormalizer(Message(message.data()), &model);
    if (message.number() == model_field::kTrainerSpec) {
      Message spec(message.data());
      while (spec.Next()) {
        if (spec.number() == trainer_field::kModelType)
          model.type = static_cast<SentencePieceModel::Type>(spec.value());
      }
    }
  }
  if (model.pieces.empty()) throw std::runtime_error("it has no pieces");
  return model;
}

}  // namespace

int SentencePieceModel::FindOnly(PieceType wanted) const {
  int found = -1;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type != wanted) continue;
    if (found >= 0) return -1;
    found = static_cast<int>(id);
  }
  return found;
}

SentencePieceModel ReadSentencePieceModel(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw FileError(fmt::format("cannot open {}", path.string()), errno);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  try {
    return ReadModel(Message(bytes));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{} is no SentencePiece model: {}", path.string(), error.what()));
  }
}

}  // namespace normlab::trainer
