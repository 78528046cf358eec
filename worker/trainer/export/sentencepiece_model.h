#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace normlab::trainer {

/// What a SentencePiece model file says, as far as another tokenizer library needs it. The file is a protobuf message
/// (ModelProto of sentencepiece_model.proto); it is read here because the trainer has no protobuf.
struct SentencePieceModel {
  enum class Type { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  enum class PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };

  Type type = Type::kUnigram;
  std::vector<Piece> pieces;  // In order of id.

  // How text is changed before it is cut into pieces.
  bool has_character_map = false;  // Characters are folded, as by nmt_nfkc.
  bool adds_dummy_prefix = true;
  bool removes_extra_whitespaces = true;
  bool escapes_whitespaces = true;

  /// The id of the only piece of that type; -1 if there is none.
  int FindOnly(PieceType type) const;
};

/// Throws std::runtime_error if the file cannot be read or is no SentencePiece model.
SentencePieceModel ReadSentencePieceModel(const std::filesystem::path& path);

}  // namespace normlab::trainer
