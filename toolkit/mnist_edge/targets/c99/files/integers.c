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

/* Inputs that are multiplied at a time: a sum is then read and written once for four products. */
#define INPUTS 4

/* Inputs that are not 0, and where the weights of each are stored. */
typedef struct {
    const uint8_t *rows[INPUTS];
    uint8_t x[INPUTS];
} group;

#define SUM(weight) x0 * (weight(r0 + j)) + x1 * (weight(r1 + j)) + x2 * (weight(r2 + j)) + x3 * (weight(r3 + j))
#define INT8(address) (int8_t)MODEL_LOAD8(address)
#define LOW(address) (MODEL_LOAD8(address) & 15)
#define HIGH(address) (MODEL_LOAD8(address) >> 4)

/*
 * sums = sums + the products of a group, or the products alone where `keep` is 0 and not -1: clearing the sums first
 * would be a call of memset. Byte j of a row is the int8 weight of output j; or it has the int4 weights of outputs j and
 * j + bytes in its halves, plus 8, which saves extending their signs.
 */
static void add(uint8_t bits, int32_t *restrict sums, int32_t keep, const group *g, uint16_t bytes)
{
    const uint8_t *const r0 = g->rows[0], *const r1 = g->rows[1], *const r2 = g->rows[2], *const r3 = g->rows[3];
    const int32_t x0 = g->x[0], x1 = g->x[1], x2 = g->x[2], x3 = g->x[3];
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
 * Sum the products of a window with the weights of a block of outputs, of which an input has `bytes` bytes. Weights are
 * stored by input: an input of 0, which most are, skips its products.
 */
static void sum(const layer *l, const uint8_t *in, uint16_t pitch, const uint8_t *weights, uint16_t bytes, int32_t *sums)
{
    const uint16_t neighbours = (uint16_t)(l->kernel * l->channels); /* in memory: a row of the window */
    int32_t keep = 0, excess = 0;
    uint16_t i, j;
    uint8_t row, filled = 0;
    group g;

    for (row = 0; row < l->kernel; ++row, in += pitch) {
        for (i = 0; i < neighbours; ++i, weights += bytes) {
            if (in[i] == 0) {
                continue;
            }
            g.rows[filled] = weights;
            g.x[filled] = in[i];
            excess += in[i];
            if (++filled == INPUTS) {
                add(l->bits, sums, keep, &g, bytes);
                keep = -1;
                filled = 0;
            }
        }
    }
    for (; filled < INPUTS; ++filled) {
        g.rows[filled] = weights - bytes;
        g.x[filled] = 0;
    }
    add(l->bits, sums, keep, &g, bytes);
    if (l->bits == 4) {
        for (j = 0; j < 2 * bytes; ++j) {
            sums[j] -= 8 * excess; /* what was added to each weight */
        }
    }
}

/*
 * Compute side x side pixels of a layer's output, from a map whose rows have `pitch` values. Maps are stored row by row,
 * the channels of a pixel together.
 */
static void run(const layer *l, const uint8_t *input, uint16_t pitch, uint8_t side, uint8_t *output, int32_t *logits)
{
    const uint8_t *weights = l->weights;
    uint16_t first, j;
    uint8_t y, x;
    int32_t sums[BLOCK];

    for (first = 0; first < l->outputs; first = (uint16_t)(first + BLOCK)) {
        const uint16_t left = (uint16_t)(l->outputs - first);
        const uint16_t count = left < BLOCK ? left : BLOCK;
        const uint16_t bytes = (uint16_t)(l->bits == 8 ? count : (count + 1) / 2);
        for (y = 0; y < side; ++y) {
            for (x = 0; x < side; ++x) {
                uint8_t *const place = output + (uint16_t)(y * side + x) * l->outputs + first;
                sum(l, input + (uint16_t)(y * l->stride) * pitch + (uint16_t)(x * l->stride) * l->channels, pitch, weights,
                    bytes, sums);
                for (j = 0; j < count; ++j) {
                    const int32_t multiplier = (int32_t)MODEL_LOAD32(l->multipliers + first + j);
                    const int32_t t = sums[j] * multiplier + (int32_t)MODEL_LOAD32(l->biases + first + j);
                    if (l->last) {
                        logits[first + j] = t;
                    } else {
                        place[j] = requantise(t, l->shift);
                    }
                }
            }
        }
        weights += (uint16_t)(l->kernel * l->kernel) * (uint32_t)l->channels * bytes;
    }
}
