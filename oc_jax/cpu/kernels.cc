// What XLA has no fast program for on CPU, in float32: products of a weight matrix with few columns (decoding), and
// attention without its scores in memory (training). Compiled and registered by __init__.py.
//
// Everything is built of one tile of a matrix product whose sums stay in registers. A sum is taken in the order of its
// terms whatever the number of threads, rows or columns, so a result depends on nothing but its own operands.

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;  // floats of a register; registers that hold sums
#elif defined(__AVX__)
constexpr int kLanes = 8, kSums = 12;
#else
constexpr int kLanes = 4, kSums = 24;
#endif
constexpr int kBlock = 64;  // queries and keys of a tile of attention

typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

Floats& at(float* p) { return *reinterpret_cast<Floats*>(p); }
const Floats& at(const float* p) { return *reinterpret_cast<const Floats*>(p); }
const Ints& at(const int* p) { return *reinterpret_cast<const Ints*>(p); }

// A matrix in memory: element (i, j) lies at data[i * row + j * column].
struct Matrix {
  const float* data;
  long row, column = 1;
};

enum Mode { kSet, kAdd, kStream };  // y = ab; y += ab; y = ab where a comes from memory and is read once

// y [R, C registers] of a [R, depth] and b [depth, C registers].
template <int R, int C, Mode mode>
void tile(Matrix a, const float* b, long b_row, float* y, long y_row, long depth) {
  Floats sum[R][C];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) sum[i][j] = mode == kAdd ? at(y + i * y_row + j * kLanes) : Floats{};
  for (long t = 0; t < depth; ++t) {
    Floats row[C];
    for (int j = 0; j < C; ++j) row[j] = at(b + t * b_row + j * kLanes);
#pragma GCC unroll 24
    for (int i = 0; i < R; ++i) {
      const float s = a.data[i * a.row + t * a.column];
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) sum[i][j] += s * row[j];
    }
    if (mode == kStream && t % 16 == 0)  // the rows that are next, a cache line of each
#pragma GCC unroll 24
      for (int i = 0; i < R; ++i) __builtin_prefetch(a.data + (i + R) * a.row + t);
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) at(y + i * y_row + j * kLanes) = sum[i][j];
}

// The same for any number of rows: in tiles of R, the rest in a smaller one.
template <int R, int C, Mode mode>
void column_of_tiles(long rows, Matrix a, const float* b, long b_row, float* y, long y_row, long depth) {
  for (; rows >= R; rows -= R, a.data += R * a.row, y += R * y_row) tile<R, C, mode>(a, b, b_row, y, y_row, depth);
  if constexpr (R > 1)
    if (rows) column_of_tiles<R - 1, C, mode>(rows, a, b, b_row, y, y_row, depth);
}

// y [rows, columns] of a [rows, depth] and b [depth, columns]; columns are a multiple of kLanes.
template <Mode mode>
void product(long rows, long columns, long depth, Matrix a, const float* b, long b_row, float* y, long y_row) {
  while (columns) {
    const long some = std::min<long>(columns / kLanes, mode == kStream ? 2 : 4);
    if (some == 4) column_of_tiles<kSums / 4, 4, mode>(rows, a, b, b_row, y, y_row, depth);
    else if (some == 3) column_of_tiles<kSums / 3, 3, mode>(rows, a, b, b_row, y, y_row, depth);
    else if (some == 2) column_of_tiles<kSums / 2, 2, mode>(rows, a, b, b_row, y, y_row, depth);
    else column_of_tiles<kSums / 2, 1, mode>(rows, a, b, b_row, y, y_row, depth);
    columns -= some * kLanes, b += some * kLanes, y += some * kLanes;
  }
}

// body(0) … body(count - 1), on XLA's threads and this one. A task that starts late finds nothing left, so nobody waits
// for a thread that may never come.
template <typename Body>
void parallel(ffi::ThreadPool pool, long count, const Body& body) {
  struct Progress {
    std::atomic<long> next{0}, done{0};
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, count, &body] {
    for (long i; (i = progress->next++) < count; ++progress->done) body(i);
  };
  for (long i = 1; i < std::min<long>(pool.num_threads(), count); ++i) pool.Schedule(decltype(work)(work));
  work();
  while (progress->done < count) std::this_thread::yield();
}

ffi::Error Product(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> w, ffi::Buffer<ffi::F32> x,
                   ffi::ResultBuffer<ffi::F32> y) {
  const long rows = w.dimensions()[0], depth = w.dimensions()[1], columns = x.dimensions()[1];
  if (columns % kLanes) return ffi::Error::InvalidArgument("the number of columns is no multiple of a register");
  const long tiles = (rows + kSums / 2 - 1) / (kSums / 2), parts = 4 * std::max<long>(1, pool.num_threads());
  const long step = (tiles + parts - 1) / parts * (kSums / 2);
  parallel(pool, (rows + step - 1) / step, [&](long i) {
    product<kStream>(std::min(step, rows - i * step), columns, depth, {w.typed_data() + i * step * depth, depth},
                     x.typed_data(), columns, y->typed_data() + i * step * columns, columns);
  });
  return ffi::Error::Success();
}

Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// e^x for x ≤ 0 within 2 units of the last place; 0 below -87 (Cephes' expf).
Floats exponential(Floats x) {
  const Floats shift = Floats{} + 12582912.0f;  // 1.5 · 2²³: adding it rounds to a whole number
  const Floats n = (x * 1.44269504f + shift) - shift, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints power = (__builtin_convertvector(larger(n, Floats{} - 126.0f), Ints) + 127) << 23;
  return x < -87.0f ? Floats{} : p * reinterpret_cast<const Floats&>(power);
}

float highest(Floats x) {
  float result = x[0];
  for (int i = 1; i < kLanes; ++i) result = std::max(result, x[i]);
  return result;
}

float total(Floats x) {
  float result = 0;
  for (int i = 0; i < kLanes; ++i) result += x[i];
  return result;
}

// What a head attends with: arrays of [batch, length, heads, dim] and how they are masked.
struct Attention {
  long batch, length, heads, kv_heads, dim;
  const int *positions, *segments;  // [batch, length]

  long blocks() const { return (length + kBlock - 1) / kBlock; }
  long size(long block) const { return std::min<long>(kBlock, length - block * kBlock); }
  float scale() const { return 1 / std::sqrt(static_cast<float>(dim)); }
  long offset(long row, long place, long head, long of) const { return ((row * length + place) * of + head) * dim; }

  // Whether no query of one block may see a key of another: none is earlier, or they belong to other documents.
  bool apart(long row, long queries, long keys) const {
    if (keys > queries) return true;
    const int* s = segments + row * length;
    const auto q = std::minmax_element(s + queries * kBlock, s + queries * kBlock + size(queries));
    const auto k = std::minmax_element(s + keys * kBlock, s + keys * kBlock + size(keys));
    return *q.second < *k.first || *k.second < *q.first;
  }
};

// What a block of keys is hidden by: its positions and segments, those that lie beyond the end never seen.
struct Keys {
  int positions[kBlock], segments[kBlock];

  Keys(const Attention& a, long row, long block) {
    for (int i = 0; i < kBlock; ++i) {
      const long place = row * a.length + block * kBlock + i;
      positions[i] = i < a.size(block) ? a.positions[place] : INT_MAX;
      segments[i] = i < a.size(block) ? a.segments[place] : 0;
    }
  }

  // `scores` of the keys j … j + kLanes - 1, or what stands for those that the query at `place` does not see.
  Floats seen(const Attention& a, long place, int j, Floats scores) const {
    const Ints mask = (at(positions + j) <= a.positions[place]) & (at(segments + j) == a.segments[place]);
    return mask ? scores : Floats{} - 1e30f;
  }
};

// rows × dim floats, `stride` apart in memory, one after another and times `factor`.
void gather(long rows, long dim, const float* from, long stride, float factor, float* to) {
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < dim; ++j) to[i * dim + j] = factor * from[i * stride + j];
}

// The same as [dim, kBlock], columns beyond `rows` 0.
void gather_transposed(long rows, long dim, const float* from, long stride, float* to) {
  std::fill(to, to + dim * kBlock, 0.0f);
  for (long i = 0; i < rows; ++i)
    for (long j = 0; j < dim; ++j) to[j * kBlock + i] = from[i * stride + j];
}

using Input = ffi::Buffer<ffi::F32>;
using Output = ffi::ResultBuffer<ffi::F32>;

Attention described(Input q, Input k, ffi::Buffer<ffi::S32> positions, ffi::Buffer<ffi::S32> segments) {
  const auto shape = q.dimensions();
  return {shape[0], shape[1], shape[2], k.dimensions()[2], shape[3], positions.typed_data(), segments.typed_data()};
}

// One head of one row of the batch: all scores of a block of queries at a time, which stay in the L2 cache.
void forward(const Attention& a, long row, long head, const float* q, const float* k, const float* v, float* out,
             float* log_sum) {
  const long dim = a.dim, q_stride = a.heads * dim, kv_stride = a.kv_heads * dim, blocks = a.blocks();
  const long kv = a.offset(row, 0, head * a.kv_heads / a.heads, a.kv_heads), width = blocks * kBlock;
  std::vector<float> keys(dim * width), values(width * dim), queries(kBlock * dim), scores(kBlock * width);
  std::vector<Keys> hidden;
  for (long j = 0; j < blocks; ++j) {
    gather_transposed(a.size(j), dim, k + kv + j * kBlock * kv_stride, kv_stride, &keys[j * kBlock * dim]);
    hidden.emplace_back(a, row, j);
  }
  gather(a.length, dim, v + kv, kv_stride, 1, values.data());
  for (long i = 0; i < blocks; ++i) {
    const long rows = a.size(i), start = a.offset(row, i * kBlock, head, a.heads);
    long first = 0;
    while (a.apart(row, i, first)) ++first;
    gather(rows, dim, q + start, q_stride, a.scale(), queries.data());
    for (long j = first; j <= i; ++j)
      product<kSet>(rows, kBlock, dim, {queries.data(), dim}, &keys[j * kBlock * dim], kBlock, &scores[j * kBlock],
                    width);
    for (long r = 0; r < rows; ++r) {
      const long place = row * a.length + i * kBlock + r;
      float* s = &scores[r * width];
      Floats high = Floats{} - 1e30f, sum = {};
      for (long j = first; j <= i; ++j)
        for (int c = 0; c < kBlock; c += kLanes) {
          Floats& some = at(s + j * kBlock + c);
          high = larger(high, some = hidden[j].seen(a, place, c, some));
        }
      const float top = highest(high);
      for (long c = first * kBlock; c < (i + 1) * kBlock; c += kLanes) sum += at(s + c) = exponential(at(s + c) - top);
      const float all = total(sum);
      for (long c = first * kBlock; c < (i + 1) * kBlock; c += kLanes) at(s + c) /= all;
      log_sum[(row * a.heads + head) * a.length + i * kBlock + r] = top + std::log(all);
    }
    product<kSet>(rows, dim, (i + 1) * kBlock - first * kBlock - kBlock + rows, {&scores[first * kBlock], width},
                  &values[first * kBlock * dim], dim, out + start, q_stride);
  }
}

// The gradient of one head of keys and of the queries that share it (FlashAttention-2's, a block of keys at a time).
void backward(const Attention& a, long row, long kv_head, const float* q, const float* k, const float* v,
              const float* out, const float* log_sum, const float* g, float* dq, float* dk, float* dv) {
  const long dim = a.dim, group = a.heads / a.kv_heads, q_stride = a.heads * dim, kv_stride = a.kv_heads * dim;
  const long first = kv_head * group, kv = a.offset(row, 0, kv_head, a.kv_heads);
  std::vector<float> queries(group * a.length * dim), pulls(queries.size()), slopes(group * a.length);
  for (long h = 0; h < group; ++h) {
    const long from = a.offset(row, 0, first + h, a.heads);
    gather(a.length, dim, q + from, q_stride, a.scale(), &queries[h * a.length * dim]);
    gather(a.length, dim, g + from, q_stride, 1, &pulls[h * a.length * dim]);
    for (long i = 0; i < a.length; ++i) {
      Floats sum = {};
      for (long c = 0; c < dim; c += kLanes) sum += at(g + from + i * q_stride + c) * at(out + from + i * q_stride + c);
      slopes[h * a.length + i] = total(sum);
      std::fill_n(dq + from + i * q_stride, dim, 0.0f);
    }
  }
  std::vector<float> keys(kBlock * dim), keys_t(dim * kBlock), values_t(dim * kBlock), d_keys(kBlock * dim),
      d_values(kBlock * dim), weights(kBlock * kBlock), d_scores(kBlock * kBlock);
  for (long j = 0; j < a.blocks(); ++j) {
    const long count = a.size(j), from = kv + j * kBlock * kv_stride;
    const Keys hidden(a, row, j);
    gather(count, dim, k + from, kv_stride, a.scale(), keys.data());
    gather_transposed(count, dim, k + from, kv_stride, keys_t.data());
    gather_transposed(count, dim, v + from, kv_stride, values_t.data());
    std::fill(d_keys.begin(), d_keys.end(), 0.0f);
    std::fill(d_values.begin(), d_values.end(), 0.0f);
    for (long h = 0; h < group; ++h)
      for (long i = j; i < a.blocks(); ++i) {
        if (a.apart(row, i, j)) continue;
        const long rows = a.size(i), place = h * a.length + i * kBlock;
        const float *some_q = &queries[place * dim], *some_g = &pulls[place * dim];
        product<kSet>(rows, kBlock, dim, {some_q, dim}, keys_t.data(), kBlock, weights.data(), kBlock);
        product<kSet>(rows, kBlock, dim, {some_g, dim}, values_t.data(), kBlock, d_scores.data(), kBlock);
        for (long r = 0; r < rows; ++r) {
          const float level = log_sum[(row * a.heads + first + h) * a.length + i * kBlock + r];
          for (int c = 0; c < kBlock; c += kLanes) {
            Floats &w = at(&weights[r * kBlock + c]), &d = at(&d_scores[r * kBlock + c]);
            w = exponential(hidden.seen(a, row * a.length + i * kBlock + r, c, w) - level);
            d = w * (d - slopes[place + r]);
          }
        }
        product<kAdd>(count, dim, rows, {weights.data(), 1, kBlock}, some_g, dim, d_values.data(), dim);
        product<kAdd>(count, dim, rows, {d_scores.data(), 1, kBlock}, some_q, dim, d_keys.data(), dim);
        product<kAdd>(rows, dim, count, {d_scores.data(), kBlock}, keys.data(), dim,
                      dq + a.offset(row, i * kBlock, first + h, a.heads), q_stride);
      }
    for (long r = 0; r < count; ++r) {
      std::copy_n(&d_keys[r * dim], dim, dk + from + r * kv_stride);
      std::copy_n(&d_values[r * dim], dim, dv + from + r * kv_stride);
    }
  }
}

// Rotary embedding of one head: its first half against the second.
void rotate(long dim, const float* x, const float* cos, const float* sin, float factor, float* y, long y_step) {
  for (long i = 0; i < dim / 2; ++i) {
    y[i * y_step] = factor * (x[i] * cos[i] - x[i + dim / 2] * sin[i]);
    y[(i + dim / 2) * y_step] = factor * (x[i + dim / 2] * cos[i] + x[i] * sin[i]);
  }
}

// q [batch, heads, dim]; k, v [batch, kv_heads, dim]; cos, sin [batch, 1, dim / 2]; positions [batch]; caches
// [kv_heads · batch, places, dim], changed in place: as results they are the same memory.
ffi::Error Step(ffi::ThreadPool pool, Input q, Input k, Input v, Input cos, Input sin, ffi::Buffer<ffi::S32> positions,
                Input, Input, Output out, Output keys, Output values) {
  const long batch = q.dimensions()[0], heads = q.dimensions()[1], kv_heads = k.dimensions()[1];
  const long dim = q.dimensions()[2], places = keys->dimensions()[1], group = heads / kv_heads;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  parallel(pool, kv_heads * batch, [&](long i) {
    const long row = i % batch, head = i / batch, fresh = (row * kv_heads + head) * dim;
    const long last = std::min<long>(positions.typed_data()[row], places - 1);
    const float *c = cos.typed_data() + row * dim / 2, *s = sin.typed_data() + row * dim / 2;
    float *all_keys = keys->typed_data() + i * places * dim, *all_values = values->typed_data() + i * places * dim;
    rotate(dim, k.typed_data() + fresh, c, s, 1, all_keys + last * dim, 1);
    std::copy_n(v.typed_data() + fresh, dim, all_values + last * dim);
    std::vector<float> queries(dim * kLanes), scores((last + 1) * kLanes);
    for (long first = 0; first < group; first += kLanes) {  // as many heads of queries as a register has lanes
      const long some = std::min<long>(kLanes, group - first), offset = (row * heads + head * group + first) * dim;
      for (long h = 0; h < some; ++h) rotate(dim, q.typed_data() + offset + h * dim, c, s, scale, &queries[h], kLanes);
      product<kStream>(last + 1, kLanes, dim, {all_keys, dim}, queries.data(), kLanes, scores.data(), kLanes);
      Floats high = Floats{} - 1e30f, sum = {};
      for (long t = 0; t <= last; ++t) high = larger(high, at(&scores[t * kLanes]));
      for (long t = 0; t <= last; ++t) sum += at(&scores[t * kLanes]) = exponential(at(&scores[t * kLanes]) - high);
      for (long t = 0; t <= last; ++t) at(&scores[t * kLanes]) /= sum;
      product<kSet>(some, dim, last + 1, {scores.data(), 1, kLanes}, all_values, dim, out->typed_data() + offset, dim);
    }
  });
  return ffi::Error::Success();
}

ffi::Error Forward(ffi::ThreadPool pool, Input q, Input k, Input v, ffi::Buffer<ffi::S32> positions,
                   ffi::Buffer<ffi::S32> segments, Output out, Output log_sum) {
  const Attention a = described(q, k, positions, segments);
  if (a.dim % kLanes) return ffi::Error::InvalidArgument("head_dim is no multiple of a register");
  parallel(pool, a.batch * a.heads, [&](long i) {
    forward(a, i / a.heads, i % a.heads, q.typed_data(), k.typed_data(), v.typed_data(), out->typed_data(),
            log_sum->typed_data());
  });
  return ffi::Error::Success();
}

ffi::Error Backward(ffi::ThreadPool pool, Input q, Input k, Input v, ffi::Buffer<ffi::S32> positions,
                    ffi::Buffer<ffi::S32> segments, Input out, Input log_sum, Input g, Output dq, Output dk,
                    Output dv) {
  const Attention a = described(q, k, positions, segments);
  parallel(pool, a.batch * a.kv_heads, [&](long i) {
    backward(a, i / a.kv_heads, i % a.kv_heads, q.typed_data(), k.typed_data(), v.typed_data(), out.typed_data(),
             log_sum.typed_data(), g.typed_data(), dq->typed_data(), dk->typed_data(), dv->typed_data());
  });
  return ffi::Error::Success();
}

}  // namespace

// The operands of each kernel are named where it is defined.
#define F32 ffi::Buffer<ffi::F32>
#define S32 ffi::Buffer<ffi::S32>
XLA_FFI_DEFINE_HANDLER_SYMBOL(oc_product, Product,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<F32>().Arg<F32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(oc_step, Step, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>().Arg<F32>().Arg<F32>()
    .Ret<F32>().Ret<F32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(oc_attention, Forward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>().Arg<S32>().Ret<F32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(oc_attention_gradient, Backward, ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
    .Arg<F32>().Arg<F32>().Arg<F32>().Arg<S32>().Arg<S32>().Arg<F32>().Arg<F32>().Arg<F32>()
    .Ret<F32>().Ret<F32>().Ret<F32>());
