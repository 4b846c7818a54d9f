/* Native kernels for CPUs: one-bit and 8-bit-distance convolutions, and the adder layer in float32.
 *
 * A plain C interface, no library but OpenMP where the compiler has it. The instruction set is chosen at run time
 * (`effmodels_best_level`), and every function takes the level, so that all of them can be tested on one machine:
 *
 *   0  portable C              1  popcnt (x86)             2  AVX2; NEON on ARM            3  AVX-512 with VPOPCNTDQ
 *
 * -- Packed convolutions ------------------------------------------------------------------------------------------
 * Inputs are words of 64 bits per pixel, (batch, height, width, words): 64 channels of one bit, or 8 of one byte.
 * Filters stand in groups of 8 side by side, (filters / 8, kernel positions, words, 8): one vector instruction meets
 * one word of the input with the words of 8 filters, so sums need no reduction across lanes.
 *
 *   operation 0 (signs)          Σ popcount(x ^ w): signs that differ
 *   operation 1 (ternary)        Σ popcount((x ^ w) & m): the same where m says that the input is not 0
 *   operation 2 (distances)      Σ |x - w| of unsigned bytes
 *
 * Kernel positions outside of the image are left out in operations 0 and 1 (padding is the value 0, which is no sign)
 * and count as the value 0 in operation 2. What is written, (batch, height', width', filters), is
 *
 *   (gain[f] · count + mean[f] · total) + shift[row class][column class][f]
 *
 * with count = Σ s·b = positions - 2 · sum for signs s of the inputs and b of the filter (-sum for distances), and
 * total = Σ s over the same positions. Built with -ffp-contract=off: these are the roundings of the same expression
 * written in any other language.
 *
 * -- Adder layer --------------------------------------------------------------------------------------------------
 * -Σ|x - w| and its gradient for the inputs, on tiles of TILE positions whose patches fit the cache.
 */

#ifndef VECTOR_BODY

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#endif
#if defined(__aarch64__)
#define NEON 1
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define LANES 8
#define PIXELS 4 /* that one call of a micro-kernel computes */
#define GROUPS 4 /* of 8 filters, likewise */

enum { SIGNS, TERNARY, DISTANCES };

typedef struct {
    int64_t batch, channels, words, height, width, filters, out_height, out_width;
    int64_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
} Geometry;

int effmodels_best_level(void) {
#if X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vpopcntdq"))
        return 3;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return 2;
    if (__builtin_cpu_supports("popcnt")) return 1;
#elif NEON
    return 2;
#endif
    return 0;
}

/* ------------------------------------------------------------------------------------------------ packing of signs
 * From (batch, channels, height, width) in either memory layout to words: bit c of a word is 1 where x > upper. `mask`
 * gets the bits of x > upper or x < lower. Returns 1 if there is a value between them (or equal to one of them, which
 * is sign(0)), plus 2 if there is one that is not finite: x - x is 0 of all others. */

INLINE int pack_word(const float *x, int64_t stride, int64_t count, float lower, float upper, uint64_t *sign,
                     uint64_t *mask) {
    uint64_t above = 0, below = 0;
    int nonfinite = 0;
    for (int64_t c = 0; c < count; c++) {
        float v = x[c * stride];
        above |= (uint64_t)(v > upper) << c;
        below |= (uint64_t)(v < lower) << c;
        nonfinite |= v - v != 0;
    }
    *sign = above;
    *mask = above | below;
    uint64_t all = count == 64 ? ~0ull : (1ull << count) - 1;
    return (*mask != all) | nonfinite << 1;
}

INLINE int pack_word_double(const double *x, int64_t stride, int64_t count, double lower, double upper,
                            uint64_t *sign, uint64_t *mask) {
    uint64_t above = 0, below = 0;
    int nonfinite = 0;
    for (int64_t c = 0; c < count; c++) {
        double v = x[c * stride];
        above |= (uint64_t)(v > upper) << c;
        below |= (uint64_t)(v < lower) << c;
        nonfinite |= v - v != 0;
    }
    *sign = above;
    *mask = above | below;
    uint64_t all = count == 64 ? ~0ull : (1ull << count) - 1;
    return (*mask != all) | nonfinite << 1;
}

#if X86
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")))
#define AVX2 __attribute__((target("avx2,popcnt")))
#define POPCNT __attribute__((target("popcnt")))

/* Of _mm512_fpclass_ps_mask: not a number (quiet, signalling), infinite (positive, negative). */
#define NONFINITE (0x01 | 0x80 | 0x08 | 0x10)

/* Channels side by side. */
AVX512 static int pack_last_avx512(const float *x, int64_t count, float lower, float upper, uint64_t *sign,
                                   uint64_t *mask) {
    const __m512 l = _mm512_set1_ps(lower), u = _mm512_set1_ps(upper);
    uint64_t above = 0, below = 0, nonfinite = 0;
    for (int64_t c = 0; c < count; c += 16) {
        __mmask16 there = count - c >= 16 ? 0xffff : (__mmask16)((1u << (count - c)) - 1);
        __m512 v = _mm512_maskz_loadu_ps(there, x + c);
        above |= (uint64_t)_mm512_mask_cmp_ps_mask(there, v, u, _CMP_GT_OQ) << c;
        below |= (uint64_t)_mm512_mask_cmp_ps_mask(there, v, l, _CMP_LT_OQ) << c;
        nonfinite |= (uint64_t)_mm512_fpclass_ps_mask(v, NONFINITE);
    }
    *sign = above;
    *mask = above | below;
    uint64_t all = count == 64 ? ~0ull : (1ull << count) - 1;
    return (*mask != all) | (nonfinite != 0) << 1;
}

/* Pixels side by side: 8 words at once. */
AVX512 static int pack_first_avx512(const float *x, int64_t plane, int64_t pixels, int64_t count, float lower,
                                    float upper, uint64_t *sign, uint64_t *mask, int64_t words) {
    const __m512 l = _mm512_set1_ps(lower), u = _mm512_set1_ps(upper);
    const __m512i step = _mm512_set1_epi64(words * 8);
    const __m512i all = _mm512_set1_epi64(count == 64 ? -1ll : (1ll << count) - 1);
    int seen = 0;
    for (int64_t p = 0; p < pixels; p += 16) {
        __mmask16 there = pixels - p >= 16 ? 0xffff : (__mmask16)((1u << (pixels - p)) - 1);
        __m512i above[2], some[2];
        __mmask16 nonfinite = 0;
        above[0] = above[1] = some[0] = some[1] = _mm512_setzero_si512();
        for (int64_t c = 0; c < count; c++) {
            __m512 v = _mm512_maskz_loadu_ps(there, x + c * plane + p);
            __mmask16 a = _mm512_cmp_ps_mask(v, u, _CMP_GT_OQ);
            __mmask16 b = a | _mm512_cmp_ps_mask(v, l, _CMP_LT_OQ);
            nonfinite |= _mm512_fpclass_ps_mask(v, NONFINITE);
            __m512i bit = _mm512_set1_epi64(1ll << c);
            above[0] = _mm512_mask_or_epi64(above[0], (__mmask8)a, above[0], bit);
            above[1] = _mm512_mask_or_epi64(above[1], (__mmask8)(a >> 8), above[1], bit);
            some[0] = _mm512_mask_or_epi64(some[0], (__mmask8)b, some[0], bit);
            some[1] = _mm512_mask_or_epi64(some[1], (__mmask8)(b >> 8), some[1], bit);
        }
        seen |= (nonfinite != 0) << 1;
        for (int half = 0; half < 2; half++) {
            __mmask8 here = (__mmask8)(there >> (8 * half));
            __m512i at = _mm512_mullo_epi64(
                step, _mm512_add_epi64(_mm512_set1_epi64(p + 8 * half), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)));
            seen |= _mm512_mask_cmpneq_epi64_mask(here, some[half], all) != 0;
            _mm512_mask_i64scatter_epi64(sign, here, at, above[half], 1);
            _mm512_mask_i64scatter_epi64(mask, here, at, some[half], 1);
        }
    }
    return seen;
}

AVX2 static int pack_last_avx2(const float *x, int64_t count, float lower, float upper, uint64_t *sign,
                               uint64_t *mask) {
    if (count != 64) return pack_word(x, 1, count, lower, upper, sign, mask);
    const __m256 l = _mm256_set1_ps(lower), u = _mm256_set1_ps(upper);
    uint64_t above = 0, below = 0;
    int nonfinite = 0;
    for (int c = 0; c < 64; c += 8) {
        __m256 v = _mm256_loadu_ps(x + c);
        above |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v, u, _CMP_GT_OQ)) << c;
        below |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v, l, _CMP_LT_OQ)) << c;
        v = _mm256_sub_ps(v, v);
        nonfinite |= _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    }
    *sign = above;
    *mask = above | below;
    return (*mask != ~0ull) | (nonfinite != 0) << 1;
}
#endif

int effmodels_pack(int level, int threads, int doubles, int channels_last, const void *x, int64_t batch,
                   int64_t channels, int64_t pixels, double lower, double upper, uint64_t *sign, uint64_t *mask) {
    const int64_t words = (channels + 63) / 64;
    const int64_t block = 64, blocks = (pixels + block - 1) / block;
    int seen = 0;
#pragma omp parallel for num_threads(threads) reduction(| : seen) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < batch * blocks; task++) {
        const int64_t n = task / blocks, first = task % blocks * block;
        const int64_t last = first + block < pixels ? first + block : pixels;
        for (int64_t word = 0; word < words; word++) {
            const int64_t c = word * 64, count = channels - c < 64 ? channels - c : 64;
#if X86
            if (level == 3 && !doubles && !channels_last) {
                const float *from = (const float *)x + (n * channels + c) * pixels + first;
                const int64_t to = (n * pixels + first) * words + word;
                seen |= pack_first_avx512(from, pixels, last - first, count, (float)lower, (float)upper, sign + to,
                                          mask + to, words);
                continue;
            }
#endif
            for (int64_t p = first; p < last; p++) {
                const int64_t at = channels_last ? (n * pixels + p) * channels + c : (n * channels + c) * pixels + p;
                const int64_t stride = channels_last ? 1 : pixels, to = (n * pixels + p) * words + word;
                if (doubles)
                    seen |= pack_word_double((const double *)x + at, stride, count, lower, upper, sign + to, mask + to);
#if X86
                else if (level == 3)
                    seen |= pack_last_avx512((const float *)x + at, count, (float)lower, (float)upper, sign + to,
                                             mask + to);
                else if (level == 2 && channels_last)
                    seen |= pack_last_avx2((const float *)x + at, count, (float)lower, (float)upper, sign + to,
                                           mask + to);
#endif
                else
                    seen |= pack_word((const float *)x + at, stride, count, (float)lower, (float)upper, sign + to,
                                      mask + to);
            }
        }
    }
    return seen;
}

/* ------------------------------------------------------------------------------------------------- micro-kernels
 * sums[pixel][8 · group + lane] of `pixels` pixels and `groups` groups of filters over `taps` kernel positions; x and
 * mask point to the words of each (position, pixel), w to those of each position in the first group. */

typedef struct {
    const uint64_t *const *x, *const *mask, *const *w;
    int64_t taps, words, group_step;
} Patch;

INLINE uint64_t distance(uint64_t a, uint64_t b) {
    uint64_t sum = 0;
    for (int byte = 0; byte < 64; byte += 8) {
        int d = (int)(a >> byte & 255) - (int)(b >> byte & 255);
        sum += d < 0 ? -d : d;
    }
    return sum;
}

INLINE void micro_scalar(const int operation, const int pixels, const int groups, const Patch *patch, int32_t *sums) {
    for (int p = 0; p < pixels; p++)
        for (int g = 0; g < groups; g++) {
            uint64_t acc[LANES] = {0};
            for (int64_t t = 0; t < patch->taps; t++)
                for (int64_t c = 0; c < patch->words; c++) {
                    const uint64_t x = patch->x[t * PIXELS + p][c];
                    const uint64_t m = operation == TERNARY ? patch->mask[t * PIXELS + p][c] : ~0ull;
                    const uint64_t *w = patch->w[t] + g * patch->group_step + c * LANES;
                    for (int l = 0; l < LANES; l++)
                        acc[l] += operation == DISTANCES ? distance(x, w[l])
                                                         : (uint64_t)__builtin_popcountll((x ^ w[l]) & m);
                }
            for (int l = 0; l < LANES; l++) sums[(p * GROUPS + g) * LANES + l] = (int32_t)acc[l];
        }
}

#if X86
AVX512 INLINE void micro_avx512(const int operation, const int pixels, const int groups, const Patch *patch,
                                int32_t *sums) {
    __m512i acc[PIXELS][GROUPS], w[GROUPS];
    for (int p = 0; p < pixels; p++)
        for (int g = 0; g < groups; g++) acc[p][g] = _mm512_setzero_si512();
    for (int64_t t = 0; t < patch->taps; t++) {
        const uint64_t *const *x = patch->x + t * PIXELS;
        for (int64_t c = 0; c < patch->words; c++) {
#pragma GCC unroll 4
            for (int g = 0; g < groups; g++)
                w[g] = _mm512_loadu_si512(patch->w[t] + g * patch->group_step + c * LANES);
#pragma GCC unroll 4
            for (int p = 0; p < pixels; p++) {
                const __m512i v = _mm512_set1_epi64((long long)x[p][c]);
                __m512i m = v;
                if (operation == TERNARY) m = _mm512_set1_epi64((long long)patch->mask[t * PIXELS + p][c]);
#pragma GCC unroll 4
                for (int g = 0; g < groups; g++) {
                    __m512i found;
                    if (operation == DISTANCES)
                        found = _mm512_sad_epu8(v, w[g]);
                    else if (operation == TERNARY) /* (a ^ b) & c in one instruction */
                        found = _mm512_popcnt_epi64(_mm512_ternarylogic_epi64(v, w[g], m, 0x28));
                    else
                        found = _mm512_popcnt_epi64(_mm512_xor_si512(v, w[g]));
                    acc[p][g] = _mm512_add_epi64(acc[p][g], found);
                }
            }
        }
    }
    for (int p = 0; p < pixels; p++)
        for (int g = 0; g < groups; g++)
            _mm256_storeu_si256((__m256i *)(sums + (p * GROUPS + g) * LANES), _mm512_cvtepi64_epi32(acc[p][g]));
}

AVX2 INLINE __m256i popcount_avx2(__m256i v) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1,
                                           2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
    const __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    return _mm256_sad_epu8(_mm256_add_epi8(a, b), _mm256_setzero_si256());
}

AVX2 INLINE void micro_avx2(const int operation, const int pixels, const int groups, const Patch *patch,
                            int32_t *sums) {
    for (int g = 0; g < groups; g++) {
        __m256i acc[PIXELS][2];
        for (int p = 0; p < pixels; p++) acc[p][0] = acc[p][1] = _mm256_setzero_si256();
        for (int64_t t = 0; t < patch->taps; t++)
            for (int64_t c = 0; c < patch->words; c++) {
                const __m256i *from = (const __m256i *)(patch->w[t] + g * patch->group_step + c * LANES);
                const __m256i w[2] = {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
#pragma GCC unroll 4
                for (int p = 0; p < pixels; p++) {
                    const __m256i v = _mm256_set1_epi64x((long long)patch->x[t * PIXELS + p][c]);
                    __m256i m = v;
                    if (operation == TERNARY) m = _mm256_set1_epi64x((long long)patch->mask[t * PIXELS + p][c]);
#pragma GCC unroll 2
                    for (int h = 0; h < 2; h++) {
                        __m256i found;
                        if (operation == DISTANCES)
                            found = _mm256_sad_epu8(v, w[h]);
                        else if (operation == TERNARY)
                            found = popcount_avx2(_mm256_and_si256(_mm256_xor_si256(v, w[h]), m));
                        else
                            found = popcount_avx2(_mm256_xor_si256(v, w[h]));
                        acc[p][h] = _mm256_add_epi64(acc[p][h], found);
                    }
                }
            }
        for (int p = 0; p < pixels; p++) {
            uint64_t lanes[LANES];
            _mm256_storeu_si256((__m256i *)lanes, acc[p][0]);
            _mm256_storeu_si256((__m256i *)(lanes + 4), acc[p][1]);
            for (int l = 0; l < LANES; l++) sums[(p * GROUPS + g) * LANES + l] = (int32_t)lanes[l];
        }
    }
}
#endif

#if NEON
INLINE void micro_neon(const int operation, const int pixels, const int groups, const Patch *patch, int32_t *sums) {
    for (int g = 0; g < groups; g++)
        for (int p = 0; p < pixels; p++) {
            uint64x2_t acc[LANES / 2];
            for (int l = 0; l < LANES / 2; l++) acc[l] = vdupq_n_u64(0);
            for (int64_t t = 0; t < patch->taps; t++)
                for (int64_t c = 0; c < patch->words; c++) {
                    const uint64x2_t v = vdupq_n_u64(patch->x[t * PIXELS + p][c]);
                    const uint64_t *w = patch->w[t] + g * patch->group_step + c * LANES;
                    for (int l = 0; l < LANES / 2; l++) {
                        const uint64x2_t other = vld1q_u64(w + 2 * l);
                        uint8x16_t bytes;
                        if (operation == DISTANCES)
                            bytes = vabdq_u8(vreinterpretq_u8_u64(v), vreinterpretq_u8_u64(other));
                        else {
                            uint64x2_t bits = veorq_u64(v, other);
                            if (operation == TERNARY)
                                bits = vandq_u64(bits, vdupq_n_u64(patch->mask[t * PIXELS + p][c]));
                            bytes = vcntq_u8(vreinterpretq_u8_u64(bits));
                        }
                        acc[l] = vaddq_u64(acc[l], vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bytes))));
                    }
                }
            for (int l = 0; l < LANES; l++)
                sums[(p * GROUPS + g) * LANES + l] =
                    (int32_t)(l % 2 ? vgetq_lane_u64(acc[l / 2], 1) : vgetq_lane_u64(acc[l / 2], 0));
        }
}
#endif

/* ---------------------------------------------------------------------------------------------------- convolution */

typedef struct {
    const Geometry *geometry;
    const uint64_t *x, *mask, *w, *zeros;
    const void *gain, *mean, *shift;
    const int64_t *row_class, *column_class;
    int64_t column_classes;
    int doubles, channels_first;
    void *out;
} Convolution;

#define WRITE(type, count)                                                                                             \
    for (int64_t f = 0; f < count; f++) {                                                                              \
        const type first = ((const type *)gain)[f] * (type)(base + factor * sums[f]);                                  \
        const type second = ((const type *)mean)[f] * (type)total;                                                     \
        ((type *)out)[f] = (first + second) + ((const type *)shift)[f];                                                \
    }

INLINE void write_outputs(int doubles, int64_t filters, const int32_t *restrict sums, int32_t base, int32_t factor,
                          int32_t total, const void *restrict gain, const void *restrict mean,
                          const void *restrict shift, void *restrict out) {
    if (doubles) {
        WRITE(double, filters)
    } else if (filters == GROUPS * LANES) { /* a constant: no remainders */
        WRITE(float, GROUPS * LANES)
    } else {
        WRITE(float, filters)
    }
}

/* (width, filters) -> (filters, width) with `step` values from one filter to the next. */
#define TURN(type)                                                                                                     \
    for (int64_t x0 = 0; x0 < width; x0 += 16)                                                                         \
        for (int64_t f = 0; f < filters; f++)                                                                          \
            for (int64_t x = x0; x < x0 + 16 && x < width; x++)                                                        \
                ((type *)to)[f * step + x] = ((const type *)from)[x * filters + f];

INLINE void turn(int doubles, int64_t width, int64_t filters, int64_t step, const void *restrict from,
                 void *restrict to) {
    if (doubles) {
        TURN(double)
    } else {
        TURN(float)
    }
}

typedef void (*Micro)(int pixels, int groups, const Patch *patch, int32_t *sums);

/* One row of one image. `pointers` has room for (2 · PIXELS + 1) · taps, `line` for the row's outputs. */
INLINE void convolve_row(const int operation, const Micro micro, const Convolution *job, int64_t n, int64_t oy,
                         const uint64_t **pointers, void *line) {
    const Geometry *const g = job->geometry;
    const int64_t taps = g->kernel_height * g->kernel_width, size = job->doubles ? 8 : 4;
    const int64_t groups = (g->filters + LANES - 1) / LANES, group_step = taps * g->words * LANES;
    const int64_t pixels_of_image = g->out_height * g->out_width;
    const uint64_t **seen = pointers, **masks = pointers + taps * PIXELS, **weights = masks + taps * PIXELS;
    char *const rows = (char *)job->out + (n * pixels_of_image + oy * g->out_width) * g->filters * size;
    char *const to = job->channels_first ? line : rows;
    const int64_t row = job->row_class[oy];
    int64_t ox = 0;
    while (ox < g->out_width) {
        const int64_t left = ox * g->stride_x - g->pad_x;
        const int64_t right = (ox + PIXELS - 1) * g->stride_x - g->pad_x + (g->kernel_width - 1) * g->dilation_x;
        const int pixels = ox + PIXELS <= g->out_width && left >= 0 && right < g->width ? PIXELS : 1;
        int64_t used = 0;
        for (int64_t ky = 0; ky < g->kernel_height; ky++)
            for (int64_t kx = 0; kx < g->kernel_width; kx++) {
                const int64_t iy = oy * g->stride_y - g->pad_y + ky * g->dilation_y;
                const int64_t ix = left + kx * g->dilation_x;
                const int inside = iy >= 0 && iy < g->height && ix >= 0 && ix < g->width;
                if (!inside && operation != DISTANCES) continue;
                weights[used] = job->w + (ky * g->kernel_width + kx) * g->words * LANES;
                for (int p = 0; p < pixels; p++) {
                    const int64_t at = ((n * g->height + iy) * g->width + ix + p * g->stride_x) * g->words;
                    seen[used * PIXELS + p] = inside ? job->x + at : job->zeros;
                    masks[used * PIXELS + p] = operation == TERNARY ? job->mask + at : NULL;
                }
                used++;
            }
        int32_t base[PIXELS] = {0}, total[PIXELS] = {0};
        for (int p = 0; p < pixels && operation != DISTANCES; p++) {
            int32_t positive = 0, some = (int32_t)(used * g->channels);
            for (int64_t t = 0; t < used; t++)
                for (int64_t c = 0; c < g->words; c++) positive += __builtin_popcountll(seen[t * PIXELS + p][c]);
            if (operation == TERNARY) {
                some = 0;
                for (int64_t t = 0; t < used; t++)
                    for (int64_t c = 0; c < g->words; c++) some += __builtin_popcountll(masks[t * PIXELS + p][c]);
            }
            base[p] = some;
            total[p] = 2 * positive - some;
        }
        for (int64_t first = 0; first < groups;) {
            const int count = groups - first >= GROUPS ? GROUPS : 1;
            int32_t sums[PIXELS * GROUPS * LANES];
            const Patch patch = {seen, masks, weights, used, g->words, group_step};
            micro(pixels, count, &patch, sums);
            const int64_t f = first * LANES;
            const int64_t filters = g->filters - f < count * LANES ? g->filters - f : count * LANES;
            for (int p = 0; p < pixels; p++) {
                const int64_t column = job->column_class[ox + p];
                const int64_t table = (row * job->column_classes + column) * g->filters + f;
                write_outputs(job->doubles, filters, sums + p * GROUPS * LANES, base[p],
                              operation == DISTANCES ? -1 : -2, total[p], (const char *)job->gain + f * size,
                              (const char *)job->mean + f * size, (const char *)job->shift + table * size,
                              to + ((ox + p) * g->filters + f) * size);
            }
            for (int64_t t = 0; t < used; t++) weights[t] += count * group_step;
            first += count;
        }
        ox += pixels;
    }
    if (job->channels_first)
        turn(job->doubles, g->out_width, g->filters, pixels_of_image, line,
             (char *)job->out + (n * g->filters * pixels_of_image + oy * g->out_width) * size);
}

/* For each (level, operation) a micro-kernel, for all pixels and groups or the last ones one by one, and what is
 * around it, in the same instruction set. */
typedef void (*Row)(const Convolution *job, int64_t n, int64_t oy, const uint64_t **pointers, void *line);

#define ROW(name, attributes, body, operation)                                                                         \
    attributes static void micro_##name(int pixels, int groups, const Patch *patch, int32_t *sums) {                   \
        if (pixels == PIXELS && groups == GROUPS)                                                                      \
            body(operation, PIXELS, GROUPS, patch, sums);                                                              \
        else if (groups == GROUPS)                                                                                     \
            body(operation, 1, GROUPS, patch, sums);                                                                   \
        else if (pixels == PIXELS)                                                                                     \
            body(operation, PIXELS, 1, patch, sums);                                                                   \
        else                                                                                                           \
            body(operation, 1, 1, patch, sums);                                                                        \
    }                                                                                                                  \
    attributes static void name(const Convolution *job, int64_t n, int64_t oy, const uint64_t **pointers,              \
                                void *line) {                                                                          \
        convolve_row(operation, micro_##name, job, n, oy, pointers, line);                                             \
    }
#define ROWS(suffix, attributes, body)                                                                                 \
    ROW(signs_##suffix, attributes, body, SIGNS)                                                                       \
    ROW(ternary_##suffix, attributes, body, TERNARY)                                                                   \
    ROW(distances_##suffix, attributes, body, DISTANCES)

ROWS(portable, , micro_scalar)
#if X86
ROWS(popcnt, POPCNT, micro_scalar)
ROWS(avx2, AVX2, micro_avx2)
ROWS(avx512, AVX512, micro_avx512)
static const Row rows_of[4][3] = {{signs_portable, ternary_portable, distances_portable},
                                  {signs_popcnt, ternary_popcnt, distances_popcnt},
                                  {signs_avx2, ternary_avx2, distances_avx2},
                                  {signs_avx512, ternary_avx512, distances_avx512}};
#elif NEON
ROWS(neon, , micro_neon)
static const Row rows_of[4][3] = {{signs_portable, ternary_portable, distances_portable},
                                  {signs_portable, ternary_portable, distances_portable},
                                  {signs_neon, ternary_neon, distances_neon},
                                  {signs_neon, ternary_neon, distances_neon}};
#else
static const Row rows_of[4][3] = {{signs_portable, ternary_portable, distances_portable},
                                  {signs_portable, ternary_portable, distances_portable},
                                  {signs_portable, ternary_portable, distances_portable},
                                  {signs_portable, ternary_portable, distances_portable}};
#endif

/* `channels_first` asks for (batch, filters, height', width') in the place of (batch, height', width', filters).
 * Returns 0, or 1 where memory is lacking. */
int effmodels_conv(int level, int threads, int operation, int doubles, int channels_first, const Geometry *g,
                   const uint64_t *x, const uint64_t *mask, const uint64_t *w, const void *gain, const void *mean,
                   const void *shift, const int64_t *row_class, const int64_t *column_class, int64_t column_classes,
                   void *out) {
    const Row convolve = rows_of[level][operation];
    const size_t pointers = (size_t)(g->kernel_height * g->kernel_width * (2 * PIXELS + 1)) * sizeof(uint64_t *);
    const size_t line = channels_first ? (size_t)(g->out_width * g->filters) * (doubles ? 8 : 4) : 0;
    uint64_t *zeros = calloc((size_t)g->words, sizeof(uint64_t));
    if (zeros == NULL) return 1;
    const Convolution job = {g,         x,            mask,           w,       zeros,          gain, mean, shift,
                             row_class, column_class, column_classes, doubles, channels_first, out};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed) if (threads > 1)
    {
        char *room = malloc(pointers + line);
        failed |= room == NULL;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < g->batch * g->out_height; task++)
            if (room != NULL)
                convolve(&job, task / g->out_height, task % g->out_height, (const uint64_t **)room, room + pointers);
        free(room);
    }
    free(zeros);
    return failed;
}

/* ---------------------------------------------------------------------------------------------------- adder layer
 * The bodies stand at the end, once for each width of vectors. */

#define TILE 32   /* positions */
#define FILTERS 8 /* filters, or kernel values, that are computed together */
#define CHANNELS 8 /* channels of one task of the backward pass */

/* Positions of a tile side by side in one row of the output: `count` of them from `at` on, the first of which begins at
 * (row, column) of the input. */
typedef struct {
    int64_t at, count, row, column;
} Run;

static int64_t runs_of(const Geometry *g, int64_t first, int64_t count, Run *runs) {
    int64_t number = 0;
    for (int64_t at = 0; at < count; number++) {
        const int64_t y = (first + at) / g->out_width, x = (first + at) % g->out_width;
        const int64_t left = g->out_width - x, there = count - at < left ? count - at : left;
        runs[number] = (Run){at, there, y * g->stride_y - g->pad_y, x * g->stride_x - g->pad_x};
        at += there;
    }
    return number;
}

/* The positions of a run, from `*low` to before `*high`, that see the inside of the image at column offset kx. */
INLINE void inside_of(const Geometry *g, const Run *run, int64_t kx, int64_t *low, int64_t *high) {
    const int64_t z = run->column + kx, step = g->stride_x;
    const int64_t before = z < 0 ? (step - 1 - z) / step : 0, until = z < g->width ? (g->width - 1 - z) / step + 1 : 0;
    *high = until < run->count ? until : run->count;
    *low = before < *high ? before : *high;
}

/* Patches of `count` positions from `first` on of channels c0 … c1 - 1: (channels · taps, TILE); 0 outside. */
static void gather(const Geometry *g, const float *x, int64_t c0, int64_t c1, int64_t first, int64_t count,
                   float *patches) {
    Run runs[TILE];
    const int64_t number = runs_of(g, first, count, runs);
    for (int64_t c = c0; c < c1; c++)
        for (int64_t ky = 0; ky < g->kernel_height; ky++)
            for (int64_t kx = 0; kx < g->kernel_width; kx++, patches += TILE) {
                for (int64_t r = 0; r < number; r++) {
                    const Run *run = runs + r;
                    float *to = patches + run->at;
                    const int64_t y = run->row + ky;
                    int64_t low = 0, high = 0;
                    if (y >= 0 && y < g->height) inside_of(g, run, kx, &low, &high);
                    const float *from = x + (c * g->height + y) * g->width + run->column + kx;
                    for (int64_t j = 0; j < low; j++) to[j] = 0;
                    if (g->stride_x == 1)
                        for (int64_t j = low; j < high; j++) to[j] = from[j];
                    else
                        for (int64_t j = low; j < high; j++) to[j] = from[j * g->stride_x];
                    for (int64_t j = high; j < run->count; j++) to[j] = 0;
                }
                for (int64_t j = count; j < TILE; j++) patches[j] = 0;
            }
}

static void scatter(const Geometry *g, float *x, int64_t c0, int64_t c1, int64_t first, int64_t count,
                    const float *patches) {
    Run runs[TILE];
    const int64_t number = runs_of(g, first, count, runs);
    for (int64_t c = c0; c < c1; c++)
        for (int64_t ky = 0; ky < g->kernel_height; ky++)
            for (int64_t kx = 0; kx < g->kernel_width; kx++, patches += TILE)
                for (int64_t r = 0; r < number; r++) {
                    const Run *run = runs + r;
                    const float *from = patches + run->at;
                    const int64_t y = run->row + ky;
                    int64_t low = 0, high = 0;
                    if (y >= 0 && y < g->height) inside_of(g, run, kx, &low, &high);
                    float *to = x + (c * g->height + y) * g->width + run->column + kx;
                    if (g->stride_x == 1)
                        for (int64_t j = low; j < high; j++) to[j] += from[j];
                    else
                        for (int64_t j = low; j < high; j++) to[j * g->stride_x] += from[j];
                }
}

#define VECTOR_BODY 1
#if X86
#define NAME(function) function##_avx512
#define ATTRIBUTES AVX512
#define BYTES 64
#define CLAMP(v) (vector) _mm512_min_ps(_mm512_max_ps((__m512)(v), _mm512_set1_ps(-1)), _mm512_set1_ps(1))
#include __FILE__
#undef NAME
#undef ATTRIBUTES
#undef BYTES
#undef CLAMP
#define NAME(function) function##_avx2
#define ATTRIBUTES AVX2
#define BYTES 32
#define CLAMP(v) (vector) _mm256_min_ps(_mm256_max_ps((__m256)(v), _mm256_set1_ps(-1)), _mm256_set1_ps(1))
#include __FILE__
#undef NAME
#undef ATTRIBUTES
#undef BYTES
#undef CLAMP
#endif
#define NAME(function) function##_portable
#define ATTRIBUTES
#define BYTES 16
#if X86
#define CLAMP(v) (vector) _mm_min_ps(_mm_max_ps((__m128)(v), _mm_set1_ps(-1)), _mm_set1_ps(1))
#elif NEON
#define CLAMP(v) (vector) vminq_f32(vmaxq_f32((float32x4_t)(v), vdupq_n_f32(-1)), vdupq_n_f32(1))
#endif
#include __FILE__

/* inputs (batch, channels, height, width), weight (filters, channels · taps) -> out (batch, filters, positions). */
int effmodels_adder_forward(int level, int threads, const Geometry *g, const float *x, const float *w, float *out) {
    const int64_t positions = g->out_height * g->out_width, tiles = (positions + TILE - 1) / TILE;
    const int64_t values = g->channels * g->kernel_height * g->kernel_width;
    int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(| : failed) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < g->batch * tiles; task++) {
        const int64_t n = task / tiles, first = task % tiles * TILE;
        const int64_t count = first + TILE < positions ? TILE : positions - first;
        float *patches = aligned_alloc(64, (size_t)(values * TILE) * sizeof(float));
        if (patches == NULL) {
            failed |= 1;
            continue;
        }
        gather(g, x + n * g->channels * g->height * g->width, 0, g->channels, first, count, patches);
        float *to = out + n * g->filters * positions + first;
#if X86
        if (level == 3) forward_avx512(values, g->filters, positions, count, patches, w, to);
        else if (level == 2) forward_avx2(values, g->filters, positions, count, patches, w, to);
        else
#endif
            forward_portable(values, g->filters, positions, count, patches, w, to);
        free(patches);
    }
    return failed;
}

/* gradient (batch, filters, positions) -> result (batch, channels, height, width), which holds zeros before. */
int effmodels_adder_input_gradient(int level, int threads, const Geometry *g, const float *x, const float *w,
                                   const float *gradient, float *result) {
    const int64_t positions = g->out_height * g->out_width, image = g->channels * g->height * g->width;
    const int64_t taps = g->kernel_height * g->kernel_width, values = g->channels * taps;
    const int64_t parts = (g->channels + CHANNELS - 1) / CHANNELS;
    int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(| : failed) schedule(static) if (threads > 1)
    for (int64_t task = 0; task < g->batch * parts; task++) {
        const int64_t n = task / parts, c0 = task % parts * CHANNELS;
        const int64_t c1 = c0 + CHANNELS < g->channels ? c0 + CHANNELS : g->channels, rows = (c1 - c0) * taps;
        float *patches = aligned_alloc(64, (size_t)((2 * rows + g->filters) * TILE) * sizeof(float));
        if (patches == NULL) {
            failed |= 1;
            continue;
        }
        float *sums = patches + rows * TILE, *upstream = sums + rows * TILE;
        for (int64_t first = 0; first < positions; first += TILE) {
            const int64_t count = first + TILE < positions ? TILE : positions - first;
            gather(g, x + n * image, c0, c1, first, count, patches);
            for (int64_t f = 0; f < g->filters; f++) {
                const float *from = gradient + (n * g->filters + f) * positions + first;
                for (int64_t j = 0; j < TILE; j++) upstream[f * TILE + j] = j < count ? from[j] : 0;
            }
#if X86
            if (level == 3) backward_avx512(values, rows, g->filters, patches, w + c0 * taps, upstream, sums);
            else if (level == 2) backward_avx2(values, rows, g->filters, patches, w + c0 * taps, upstream, sums);
            else
#endif
                backward_portable(values, rows, g->filters, patches, w + c0 * taps, upstream, sums);
            scatter(g, result + n * image, c0, c1, first, count, sums);
        }
        free(patches);
    }
    return failed;
}

#else /* ------------------------------------------- the bodies of the adder layer, for vectors of BYTES bytes */

#define vector NAME(floats)
#define bits NAME(ints)
typedef float vector __attribute__((vector_size(BYTES)));
typedef int32_t bits __attribute__((vector_size(BYTES)));
#define WIDTH (BYTES / 4)
#define PARTS 2 /* vectors of positions that are computed together */

#ifndef CLAMP
INLINE vector NAME(clamp)(vector v) {
    for (int l = 0; l < WIDTH; l++) v[l] = v[l] > 1 ? 1 : v[l] < -1 ? -1 : v[l];
    return v;
}
#define CLAMP(v) NAME(clamp)(v)
#endif

ATTRIBUTES INLINE void NAME(forward_block)(const int filters, int64_t values, int64_t positions, int64_t j,
                                           int64_t count, const float *patches, const float *w, float *out) {
    vector acc[FILTERS][PARTS];
    const bits magnitude = (bits){0} + 0x7fffffff;
    for (int f = 0; f < filters; f++)
        for (int part = 0; part < PARTS; part++) acc[f][part] = (vector){0};
    for (int64_t k = 0; k < values; k++) {
        vector x[PARTS];
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; part++)
            x[part] = *(const vector *)(patches + k * TILE + j + part * WIDTH);
#pragma GCC unroll 8
        for (int f = 0; f < filters; f++)
#pragma GCC unroll 2
            for (int part = 0; part < PARTS; part++)
                acc[f][part] -= (vector)((bits)(x[part] - w[f * values + k]) & magnitude);
    }
    for (int f = 0; f < filters; f++)
        for (int part = 0; part < PARTS; part++)
            for (int l = 0; l < WIDTH; l++)
                if (j + part * WIDTH + l < count) out[f * positions + j + part * WIDTH + l] = acc[f][part][l];
}

ATTRIBUTES static void NAME(forward)(int64_t values, int64_t filters, int64_t positions, int64_t count,
                                     const float *patches, const float *w, float *out) {
    for (int64_t j = 0; j < count; j += PARTS * WIDTH) {
        int64_t f = 0;
        for (; f + FILTERS <= filters; f += FILTERS)
            NAME(forward_block)(FILTERS, values, positions, j, count, patches, w + f * values, out + f * positions);
        for (; f < filters; f++)
            NAME(forward_block)(1, values, positions, j, count, patches, w + f * values, out + f * positions);
    }
}

ATTRIBUTES INLINE void NAME(backward_block)(const int rows, int64_t values, int64_t filters, const float *patches,
                                            const float *w, const float *upstream, float *sums) {
    vector acc[4][PARTS], x[4][PARTS];
    for (int k = 0; k < rows; k++)
        for (int part = 0; part < PARTS; part++) {
            acc[k][part] = (vector){0};
            x[k][part] = *(const vector *)(patches + k * TILE + part * WIDTH);
        }
    for (int64_t f = 0; f < filters; f++) {
        vector g[PARTS];
#pragma GCC unroll 2
        for (int part = 0; part < PARTS; part++) g[part] = *(const vector *)(upstream + f * TILE + part * WIDTH);
#pragma GCC unroll 4
        for (int k = 0; k < rows; k++)
#pragma GCC unroll 2
            for (int part = 0; part < PARTS; part++) {
                const vector difference = w[f * values + k] - x[k][part];
                acc[k][part] += CLAMP(difference) * g[part];
            }
    }
    for (int k = 0; k < rows; k++)
        for (int part = 0; part < PARTS; part++) *(vector *)(sums + k * TILE + part * WIDTH) = acc[k][part];
}

ATTRIBUTES static void NAME(backward)(int64_t values, int64_t rows, int64_t filters, const float *patches,
                                      const float *w, const float *upstream, float *sums) {
    for (int64_t j = 0; j < TILE; j += PARTS * WIDTH) {
        int64_t k = 0;
        for (; k + 4 <= rows; k += 4)
            NAME(backward_block)(4, values, filters, patches + k * TILE + j, w + k, upstream + j, sums + k * TILE + j);
        for (; k < rows; k++)
            NAME(backward_block)(1, values, filters, patches + k * TILE + j, w + k, upstream + j, sums + k * TILE + j);
    }
}

#undef vector
#undef bits
#undef WIDTH
#undef PARTS
#endif
