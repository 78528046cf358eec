#pragma once
// The torch wheel has ProcessGroupGloo.hpp but not gloo's headers that it includes. The class holds gloo's types only
// behind pointers, so declarations are enough. Made for torch 2.11.0; look again when torch is updated.
