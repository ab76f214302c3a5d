/*
 * x86, where memory is plenty: each map is computed whole, and an instruction multiplies four inputs, which are adjacent in
 * memory, with their int4 weights of eight outputs. Blocks have 2 * LANES outputs. Reads up to 3 bytes
 * beyond a map, and LANES - 1 beyond the weights.
 */
#include <immintrin.h>
#include <string.h>

#define LANES 8

/* sums + products; those of two inputs are at most 2 * 255 * 8, far below the int16 in which AVX2 adds them */
static inline __m256i dot(__m256i sums, __m256i x, __m256i weights)
{
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(sums, x, weights);
#else
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(x, weights), _mm256_set1_epi16(1)));
#endif
}

/* The int8 weights of four inputs, those of an output together, of each half of a block of outputs. */
typedef struct {
    __m256i half[2];
} quad;

static inline quad unpack(const uint8_t *weights, uint16_t bytes, uint16_t inputs)
{
    const __m256i fifteen = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
    __m128i rows[4], even, odd;
    __m256i pairs;
    quad q;
    uint16_t i;
    for (i = 0; i < 4; ++i) { /* 0x88 is two weights of 0 */
        const void *const row = weights + i * bytes;
        rows[i] = i < inputs ? _mm_loadl_epi64((const __m128i *)row) : _mm_set1_epi8((char)0x88);
    }
    even = _mm_unpacklo_epi8(rows[0], rows[1]);
    odd = _mm_unpacklo_epi8(rows[2], rows[3]);
    pairs = _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
    q.half[0] = _mm256_sub_epi8(_mm256_and_si256(pairs, fifteen), eight);
    q.half[1] = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), fifteen), eight);
    return q;
}

/* `run`, inlined so that the compiler knows the sizes of each layer */
static inline __attribute__((always_inline)) void run_whole(
    const layer *l, const uint8_t *input, uint16_t pitch, uint8_t side, uint8_t *output, int32_t *logits)
{
    const uint16_t neighbours = (uint16_t)(l->kernel * l->channels);
    const uint8_t *weights = l->weights;
    quad quads[QUADS];
    uint16_t first, i, j, n;
    uint8_t row, y, x;

    for (first = 0; first < l->outputs; first = (uint16_t)(first + 2 * LANES)) {
        const uint16_t left = (uint16_t)(l->outputs - first);
        const uint16_t count = left < 2 * LANES ? left : 2 * LANES;
        const uint16_t bytes = (uint16_t)((count + 1) / 2);
        int32_t multipliers[2 * LANES] = {0}, biases[2 * LANES] = {0};
        for (j = 0; j < count; ++j) {
            const uint16_t lane = (uint16_t)(j < bytes ? j : LANES + j - bytes);
            multipliers[lane] = l->multipliers[first + j];
            biases[lane] = l->biases[first + j];
        }
        for (n = 0, row = 0; row < l->kernel; ++row, weights += neighbours * bytes) {
            for (i = 0; i < neighbours; i = (uint16_t)(i + 4)) {
                quads[n++] = unpack(weights + i * bytes, bytes, (uint16_t)(neighbours - i));
            }
        }
        for (y = 0; y < side; ++y) {
            for (x = 0; x < side; ++x) {
                const uint8_t *in = input + y * l->stride * pitch + x * l->stride * l->channels;
                __m256i half[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
                int32_t sums[2 * LANES];
                uint8_t rounded[2 * LANES];
                for (n = 0, row = 0; row < l->kernel; ++row, in += pitch) {
                    for (i = 0; i < neighbours; i = (uint16_t)(i + 4), ++n) {
                        int32_t four;
                        memcpy(&four, in + i, 4);
                        half[0] = dot(half[0], _mm256_set1_epi32(four), quads[n].half[0]);
                        half[1] = dot(half[1], _mm256_set1_epi32(four), quads[n].half[1]);
                    }
                }
                memcpy(sums, half, sizeof(sums));
                for (j = 0; j < 2 * LANES; ++j) {
                    sums[j] = sums[j] * multipliers[j] + biases[j];
                    rounded[j] = requantise(sums[j], l->shift);
                }
                if (l->last) {
                    memcpy(logits + first, sums, 4u * bytes);
                    memcpy(logits + first + bytes, sums + LANES, 4u * (count - bytes));
                } else {
                    uint8_t *const out = output + (y * side + x) * l->outputs + first;
                    memcpy(out, rounded, bytes);
                    memcpy(out + bytes, rounded + LANES, (size_t)(count - bytes));
                }
            }
        }
    }
}
