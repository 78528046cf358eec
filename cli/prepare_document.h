// How one document becomes tokens, and to which split it belongs.
#pragma once

#include "cli/corpus.h"
#include "cli/corpus_reader.h"
#include "cli/prepare.h"
#include "cli/prepare_encode.h"
#include "cli/tokenizer.h"

namespace normlab::cli {

/// True if the document at `position` is held out; the rule stands at Prepare.
bool IsValidation(const Corpus& corpus, const PrepareOptions& options, DocumentPosition position);

/// Reads a text or a pair of prompt and response, and encodes it. What cannot be read has kind kInvalid if the options
/// skip such documents, otherwise a status that names its place. Safe to call from several threads.
EncodedDocument EncodeDocument(const Corpus& corpus, const PrepareOptions& options, const Tokenizer& tokenizer,
                               RawDocument document);

}  // namespace normlab::cli
