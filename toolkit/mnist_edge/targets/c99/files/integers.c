/* Inputs that are multiplied at a time: a sum is then read and written once for four products. */
#define INPUTS 4

/* An input that is not 0, and where its weights are stored. */
typedef struct {
    const uint8_t *row;
    uint8_t x;
} term;

/*
 * sums = sums + the products of INPUTS terms, or the products alone where `keep` is 0 and not -1: clearing the sums first
 * would be a call of memset. Byte j of a row is the int8 weight of output j; or it has the int4 weights of outputs j and
 * j + bytes in its halves, plus 8, which saves extending their signs.
 */
#ifdef __ARM_FEATURE_MVE
/* Arm's Helium, four outputs at a time. A lane beyond the last output is neither read nor written. */
#include <arm_mve.h>

#define WHOLE(pairs) (pairs)
#define LOW(pairs) vandq_s32(pairs, vdupq_n_s32(15))
#define HIGH(pairs) vshrq_n_s32(vandq_s32(pairs, vdupq_n_s32(240)), 4)
#define ADD(sums, part)                                                                                  \
    for (j = 0; j < bytes; j += 4) {                                                    \
        const mve_pred16_t active = vctp32q((uint32_t)(bytes - j));                     \
        int32x4_t total = vandq_s32(vldrwq_z_s32(sums + j, active), vdupq_n_s32(keep)); \
        total = vmlaq_n_s32(total, part(vldrbq_z_s32(r0 + j, active)), x0);             \
        total = vmlaq_n_s32(total, part(vldrbq_z_s32(r1 + j, active)), x1);             \
        total = vmlaq_n_s32(total, part(vldrbq_z_s32(r2 + j, active)), x2);             \
        total = vmlaq_n_s32(total, part(vldrbq_z_s32(r3 + j, active)), x3);             \
        vstrwq_p_s32(sums + j, total, active);                                          \
    }

static void add(uint8_t bits, int32_t *restrict sums, int32_t keep, const term *terms, uint16_t bytes)
{
    const int8_t *const r0 = (const int8_t *)terms[0].row, *const r1 = (const int8_t *)terms[1].row;
    const int8_t *const r2 = (const int8_t *)terms[2].row, *const r3 = (const int8_t *)terms[3].row;
    const int32_t x0 = terms[0].x, x1 = terms[1].x, x2 = terms[2].x, x3 = terms[3].x;
    int32_t j;
    if (bits == 8) {
        ADD(sums, WHOLE)
        return;
    }
    ADD(sums, LOW)
    sums += bytes;
    ADD(sums, HIGH)
}
#else
#define SUM(weight) x0 * (weight(r0 + j)) + x1 * (weight(r1 + j)) + x2 * (weight(r2 + j)) + x3 * (weight(r3 + j))
#define INT8(address) (int8_t)MODEL_LOAD8(address)
#define LOW(address) (MODEL_LOAD8(address) & 15)
#define HIGH(address) (MODEL_LOAD8(address) >> 4)

static void add(uint8_t bits, int32_t *restrict sums, int32_t keep, const term *terms, uint16_t bytes)
{
    const uint8_t *const r0 = terms[0].row, *const r1 = terms[1].row, *const r2 = terms[2].row, *const r3 = terms[3].row;
    const int32_t x0 = terms[0].x, x1 = terms[1].x, x2 = terms[2].x, x3 = terms[3].x;
    uint16_t j;
    if (bits == 8) {
        for (j = 0; j < bytes; ++j) {
            sums[j] = (sums[j] & keep) + SUM(INT8);
        }
        return;
    }
    for (j = 0; j < bytes; ++j) {
        sums[j] = (sums[j] & keep) + SUM(LOW);
    }
    sums += bytes;
    for (j = 0; j < bytes; ++j) {
        sums[j] = (sums[j] & keep) + SUM(HIGH);
    }
}
#endif

#if defined(__GNUC__) && (defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__))
#define VECTORS
#define LANES 8
typedef int32_t lanes __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes_of_lanes __attribute__((vector_size(LANES)));
typedef int8_t signed_bytes __attribute__((vector_size(LANES)));
typedef bytes_of_lanes unaligned __attribute__((aligned(1), may_alias));

static void put(const lanes *values, uint16_t count, int32_t less, int32_t *sums)
{
    uint16_t k;
    for (k = 0; k < LANES && k < count; ++k) {
        sums[k] = (*values)[k] - less;
    }
}

/*
 * `sum` for few outputs: their sums stay in vector registers, and inputs of 0 are not skipped, as a branch that is hard
 * to predict costs more than their products. Reads up to LANES - 1 bytes beyond a row of weights, which the array has.
 */
static void sum_few(const layer *l, const uint8_t *in, uint16_t pitch, const uint8_t *weights, uint16_t bytes, int32_t *sums)
{
    const uint16_t neighbours = (uint16_t)(l->kernel * l->channels);
    uint16_t j, i;
    uint8_t row;
    for (j = 0; j < bytes; j = (uint16_t)(j + LANES)) {
        const uint8_t *from = in, *w = weights + j;
        const uint16_t left = (uint16_t)(bytes - j);
        lanes low = {0}, high = {0};
        int32_t excess = 0;
        uint8_t any;
        row = l->kernel;
        do { /* at least once: otherwise `put` of zeros alone would be a call of memset */
            for (any = 0, i = 0; i < neighbours; ++i) {
                any |= from[i];
            }
            if (any == 0) { /* the margin of an image */
                w += (uint32_t)neighbours * bytes;
            } else if (l->bits == 8) {
                for (i = 0; i < neighbours; ++i, w += bytes) {
                    low += __builtin_convertvector((signed_bytes)*(const unaligned *)w, lanes) * (int32_t)from[i];
                }
            } else {
                for (i = 0; i < neighbours; ++i, w += bytes) {
                    const bytes_of_lanes pairs = *(const unaligned *)w;
                    low += __builtin_convertvector(pairs & 15, lanes) * (int32_t)from[i];
                    high += __builtin_convertvector(pairs >> 4, lanes) * (int32_t)from[i];
                    excess += 8 * from[i]; /* what was added to each weight */
                }
            }
            from += pitch;
        } while (--row > 0);
        put(&low, left, excess, sums + j);
        if (l->bits == 4) {
            put(&high, left, excess, sums + bytes + j);
        }
    }
}
#endif

/*
 * Sum the products of a window with the weights of a block of outputs, of which an input has `bytes` bytes. Weights are
 * stored by input: an input of 0, which most are, skips its products.
 */
static void sum(const layer *l, const uint8_t *in, uint16_t pitch, const uint8_t *weights, uint16_t bytes, int32_t *sums)
{
    const uint16_t neighbours = (uint16_t)(l->kernel * l->channels); /* in memory: a row of the window */
    int32_t keep = 0, excess = 0;
    uint16_t i, j;
    uint8_t row, filled = 0;
    term terms[INPUTS];

#ifdef VECTORS
    if (bytes <= 2 * LANES) {
        sum_few(l, in, pitch, weights, bytes, sums);
        return;
    }
#endif
    for (row = 0; row < l->kernel; ++row, in += pitch) {
        for (i = 0; i < neighbours; ++i, weights += bytes) {
            if (in[i] == 0) {
                continue;
            }
            terms[filled].row = weights;
            terms[filled].x = in[i];
            excess += in[i];
            if (++filled == INPUTS) {
                add(l->bits, sums, keep, terms, bytes);
                keep = -1;
                filled = 0;
            }
        }
    }
    for (; filled < INPUTS; ++filled) {
        terms[filled].row = weights - bytes;
        terms[filled].x = 0;
    }
    add(l->bits, sums, keep, terms, bytes);
    if (l->bits == 4) {
        for (j = 0; j < 2 * bytes; ++j) {
            sums[j] -= 8 * excess; /* what was added to each weight */
        }
    }
}

/*
 * Compute side x side pixels of a layer's output, from a map whose rows have `pitch` values. Maps are stored row by row,
 * the channels of a pixel together. A pixel is complete before the next one begins, so that `output` may overwrite inputs
 * that no later pixel needs.
 */
static void run(const layer *l, const uint8_t *input, uint16_t pitch, uint8_t side, uint8_t *output, int32_t *logits)
{
    const uint16_t window = (uint16_t)((uint16_t)(l->kernel * l->kernel) * l->channels);
    uint16_t first, j;
    uint8_t y, x;
    int32_t sums[BLOCK];

    for (y = 0; y < side; ++y) {
        for (x = 0; x < side; ++x) {
            const uint8_t *const in = input + (uint16_t)(y * l->stride) * pitch + (uint16_t)(x * l->stride) * l->channels;
            const uint8_t *weights = l->weights;
            for (first = 0; first < l->outputs; first = (uint16_t)(first + BLOCK)) {
                const uint16_t left = (uint16_t)(l->outputs - first);
                const uint16_t count = left < BLOCK ? left : BLOCK;
                const uint16_t bytes = (uint16_t)(l->bits == 8 ? count : (count + 1) / 2);
                sum(l, in, pitch, weights, bytes, sums);
                weights += (uint32_t)window * bytes;
                for (j = 0; j < count; ++j) {
                    const int32_t multiplier = (int32_t)MODEL_LOAD16(l->multipliers + first + j);
                    const int32_t t = sums[j] * multiplier + (int32_t)MODEL_LOAD32(l->biases + first + j);
                    if (l->last) {
                        logits[first + j] = t;
                    } else {
                        output[first + j] = requantise(t, l->shift);
                    }
                }
            }
            output += l->outputs;
        }
    }
}
