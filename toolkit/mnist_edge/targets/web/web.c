/* What the page calls: it writes 784 bytes to image(), and reads 10 float32 from predict(). */
#include "model.h"

static uint8_t pixels[784];
static float logits[10];

__attribute__((export_name("image"))) uint8_t *image(void) { return pixels; }

__attribute__((export_name("predict"))) const float *predict(void) {
    model_predict(pixels, logits);
    return logits;
}
