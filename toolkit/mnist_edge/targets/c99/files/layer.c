/* A layer: a convolution without padding. A dense layer is one on a map of one pixel. */
typedef struct {
    const uint8_t *weights; /* block of outputs, window row, window column, channel, output: int8, or int4 in pairs */
    const uint16_t *multipliers;
    const int32_t *biases;
    uint16_t outputs;
    uint16_t channels;
    uint8_t kernel;
    uint8_t stride;
    uint8_t shift;
    uint8_t bits; /* of a stored weight, 8 or 4 */
    uint8_t last;
} layer;

/* t / 2^shift, rounded half to even, clipped to 0 .. 255 */
static uint8_t requantise(int32_t t, uint8_t shift)
{
    uint32_t value = t > 0 ? (uint32_t)t : 0;
    if (shift > 0) {
        value = (value + ((uint32_t)1 << (shift - 1)) - 1 + ((value >> shift) & 1)) >> shift;
    }
    return (uint8_t)(value < 255 ? value : 255);
}
