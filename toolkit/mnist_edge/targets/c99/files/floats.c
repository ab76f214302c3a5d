/*
 * sums = biases + inputs * weights, for a uint8 image or the sums of the layer before, whose ReLU is applied here.
 *
 * Weights are stored by input: an input of 0, which most are, skips all of its products. The products of the first
 * input are assigned, not added: a loop that copies the biases would become a call of memcpy.
 */
static void run(const float *weights, const float *biases, const uint8_t *image, const float *input, uint16_t inputs,
                uint16_t outputs, float *sums)
{
    uint16_t i, j;
    for (i = 0; i < inputs; ++i, weights += outputs) {
        const float x = image ? (float)image[i] : input[i];
        if (i == 0) {
            const float positive = x > 0.0f ? x : 0.0f;
            for (j = 0; j < outputs; ++j) {
                sums[j] = biases[j] + positive * weights[j];
            }
        } else if (x > 0.0f) {
            for (j = 0; j < outputs; ++j) {
                sums[j] += x * weights[j];
            }
        }
    }
}
