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

static int32_t weight(const layer *l, const uint8_t *row, uint16_t output)
{
    uint8_t pair;
    if (l->bits == 8) {
        return (int8_t)MODEL_LOAD8(row + output);
    }
    pair = MODEL_LOAD8(row + output / 2);
    return output % 2 ? HIGH(pair) : LOW(pair);
}

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
    uint16_t j;
    for (j = 0; j < count; j = (uint16_t)(j + 2)) {
        const uint8_t pair = MODEL_LOAD8(row++);
        sums[j] += x * LOW(pair);
        sums[j + 1] += x * HIGH(pair);
    }
}

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
        const uint16_t stored = (uint16_t)(l->bits == 8 ? count : (count + 1) / 2); /* bytes for one input */
        const uint8_t *weights = block;
        for (y = 0; y < side; ++y) {
            for (x = 0; x < side; ++x) {
                const uint8_t *in = input + ((uint16_t)(y * l->stride) * width + (uint16_t)(x * l->stride)) * l->channels;
                const uint16_t place = (uint16_t)((uint16_t)(y * side + x) * l->outputs + first);
                weights = block;
                for (j = 0; j < count; ++j) {
                    sums[j] = in[0] * weight(l, weights, j);
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
