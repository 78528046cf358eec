#pragma once

namespace normlab::trainer {

/// Floating-point operations per second of this process's threads in float32: the fastest of a few products of square
/// matrices, about 30 ms of work. A busy machine makes it smaller, never larger.
double MeasurePeakFlops();

}  // namespace normlab::trainer
