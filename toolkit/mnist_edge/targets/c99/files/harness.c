/*
 * Read images, 784 bytes each, and write the logits of each, ten little-endian float32; then their count, uint32.
 * Without the count at its end, an output is that of a program that stopped early.
 */
#include "logits.h"
#include "port.h"

int main(void)
{
    static uint8_t image[MODEL_PIXELS];
    model_logit logits[MODEL_CLASSES];
    uint8_t bytes[LOGITS_BYTES];
    uint32_t images = 0, found;

    while ((found = port_read(image, MODEL_PIXELS)) == MODEL_PIXELS) {
        model_logits(image, logits);
        logits_bytes(logits, bytes);
        if (!port_write(bytes, LOGITS_BYTES)) {
            return 1;
        }
        ++images;
    }
    bytes[0] = (uint8_t)(images & 255);
    bytes[1] = (uint8_t)(images >> 8 & 255);
    bytes[2] = (uint8_t)(images >> 16 & 255);
    bytes[3] = (uint8_t)(images >> 24);
    return found == 0 && port_write(bytes, 4) ? 0 : 1;
}
