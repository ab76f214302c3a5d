/* A layer: a convolution without padding. A dense layer is one on a map of one pixel. */
typedef struct {
    const uint8_t *weights; /* block of outputs, window row, window column, channel, output: int8, or int4 in pairs */
    const int32_t *multipliers;
    const int32_t *biases;
    uint16_t outputs;
    uint16_t channels;
    uint8_t kernel;
    uint8_t stride;
    uint8_t shift;
    uint8_t bits; /* of a stored weight, 8 or 4 */
    uint8_t last;
} layer;

/* Sign-extend the low or the high half of a byte. */
#define LOW(pair) ((int32_t)((pair) & 15) - (((pair) & 8) << 1))
#define HIGH(pair) LOW((pair) >> 4)

/* int4: byte j of a row has the weights of output j in its low half, and of output j + half in its high half. */
static uint16_t half_of(uint16_t count)
{
    return (uint16_t)((count + 1) / 2);
}

static int32_t weight(const layer *l, const uint8_t *row, uint16_t count, uint16_t output)
{
    const uint16_t half = half_of(count);
    if (l->bits == 8) {
        return (int8_t)MODEL_LOAD8(row + output);
    }
    return output < half ? LOW(MODEL_LOAD8(row + output)) : HIGH(MODEL_LOAD8(row + output - half));
}

#if defined(__ARM_FEATURE_MVE)
/* Arm's Helium, four sums at a time; compilers do not find it by themselves. */
#include <arm_mve.h>

static void add(int32_t *sums, int32x4_t weights, int32_t x, mve_pred16_t active)
{
    const int32x4_t before = vldrwq_z_s32(sums, active);
    vstrwq_p_s32(sums, vmlaq_n_s32(before, weights, x), active);
}

static void add8(int32_t *sums, const uint8_t *row, uint16_t count, int32_t x)
{
    const int8_t *weights = (const int8_t *)row;
    int32_t left = count;
    for (; left >= 8; left -= 8, weights += 8, sums += 8) {
        vstrwq_s32(sums, vmlaq_n_s32(vldrwq_s32(sums), vldrbq_s32(weights), x));
        vstrwq_s32(sums + 4, vmlaq_n_s32(vldrwq_s32(sums + 4), vldrbq_s32(weights + 4), x));
    }
    for (; left > 0; left -= 4, weights += 4, sums += 4) {
        const mve_pred16_t active = vctp32q((uint32_t)left);
        add(sums, vldrbq_z_s32(weights, active), x, active);
    }
}

static void add4(int32_t *sums, const uint8_t *row, uint16_t count, int32_t x)
{
    const uint16_t half = half_of(count);
    int32_t left;
    for (left = half; left > 0; left -= 4, row += 4, sums += 4) {
        const mve_pred16_t active = vctp32q((uint32_t)left);
        const int32x4_t pairs = vldrbq_z_s32((const int8_t *)row, active);
        add(sums, vshrq_n_s32(vshlq_n_s32(pairs, 28), 28), x, active);
        add(sums + half, vshrq_n_s32(pairs, 4), x, active);
    }
}
#else
/* sums += x * weights, for int8 */
static void add8(int32_t *sums, const uint8_t *row, uint16_t count, int32_t x)
{
    uint16_t j;
    for (j = 0; j < count; ++j) {
        sums[j] += x * (int8_t)MODEL_LOAD8(row + j);
    }
}

/* sums += x * weights, for int4; `sums` has room for an even number */
static void add4(int32_t *sums, const uint8_t *row, uint16_t count, int32_t x)
{
    const uint16_t half = half_of(count);
    uint16_t j;
    for (j = 0; j < half; ++j) {
        const uint8_t pair = MODEL_LOAD8(row + j);
        sums[j] += x * LOW(pair);
        sums[half + j] += x * HIGH(pair);
    }
}
#endif

/* t / 2^shift, rounded half to even, clipped to 0 .. 255 */
static uint8_t requantise(int32_t t, uint8_t shift)
{
    uint32_t value = t > 0 ? (uint32_t)t : 0;
    if (shift > 0) {
        value = (value + ((uint32_t)1 << (shift - 1)) - 1 + ((value >> shift) & 1)) >> shift;
    }
    return (uint8_t)(value < 255 ? value : 255);
}

/*
 * Compute side x side pixels of a layer's output, from a map that is `width` pixels wide. Maps are stored row by row,
 * the channels of a pixel together.
 *
 * Weights are stored by input: an input of 0, which most are, skips all of its products. The products of the first
 * input are assigned, not added: a loop that clears `sums` would become a call of memset.
 */
static void run(const layer *l, const uint8_t *input, uint16_t width, uint8_t side, uint8_t *output, int32_t *logits)
{
    const uint8_t *block = l->weights;
    const uint16_t window = (uint16_t)(l->kernel * l->channels); /* inputs of a window's row: neighbours in memory */
    uint16_t first, i, j;
    uint8_t y, x, row;
    int32_t sums[BLOCK];

    for (first = 0; first < l->outputs; first = (uint16_t)(first + BLOCK)) {
        const uint16_t left = (uint16_t)(l->outputs - first);
        const uint16_t count = left < BLOCK ? left : BLOCK;
        const uint16_t stored = (uint16_t)(l->bits == 8 ? count : half_of(count)); /* bytes for one input */
        const uint8_t *weights = block;
        for (y = 0; y < side; ++y) {
            for (x = 0; x < side; ++x) {
                const uint8_t *in = input + ((uint16_t)(y * l->stride) * width + (uint16_t)(x * l->stride)) * l->channels;
                const uint16_t place = (uint16_t)((uint16_t)(y * side + x) * l->outputs + first);
                weights = block;
                for (j = 0; j < count; ++j) {
                    sums[j] = in[0] * weight(l, weights, count, j);
                }
                weights += stored;
                for (row = 0, i = 1; row < l->kernel; ++row, i = 0) {
                    for (; i < window; ++i, weights += stored) {
                        if (in[i] == 0) {
                            continue;
                        }
                        if (l->bits == 8) {
                            add8(sums, weights, count, in[i]);
                        } else {
                            add4(sums, weights, count, in[i]);
                        }
                    }
                    in += (uint16_t)(width * l->channels);
                }
                for (j = 0; j < count; ++j) {
                    const int32_t bias = (int32_t)MODEL_LOAD32(l->biases + first + j);
                    const int32_t t = sums[j] * (int32_t)MODEL_LOAD32(l->multipliers + first + j) + bias;
                    if (l->last) {
                        logits[place + j] = t;
                    } else {
                        output[place + j] = requantise(t, l->shift);
                    }
                }
            }
        }
        block = weights;
    }
}
