/* What the page calls: it writes 784 bytes to image(), and reads 10 float32 from predict(). */
#include "model.h"

static uint8_t pixels[MODEL_PIXELS];
static model_logit results[MODEL_CLASSES];
static float logits[MODEL_CLASSES];

__attribute__((export_name("image"))) uint8_t *image(void) { return pixels; }

__attribute__((export_name("predict"))) const float *predict(void) {
    model_logits(pixels, results);
    for (int i = 0; i < MODEL_CLASSES; i++) {
#ifdef MODEL_FLOAT
        logits[i] = results[i];
#else
        /* Exact: below 2^24, and divided by a power of two. */
        logits[i] = (float)results[i] / (float)(UINT32_C(1) << MODEL_LOGIT_SHIFT);
#endif
    }
    return logits;
}
