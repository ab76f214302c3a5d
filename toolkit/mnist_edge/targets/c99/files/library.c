/* The model as a shared library, for programs on this computer: logits of many images as float32. */
#include "model.h"

void library_logits(const uint8_t *images, uint32_t count, float *logits);

void library_logits(const uint8_t *images, uint32_t count, float *logits)
{
    uint32_t image;
#ifdef MODEL_FLOAT
    for (image = 0; image < count; ++image) {
        model_logits(images + image * MODEL_PIXELS, logits + image * MODEL_CLASSES);
    }
#else
    const float unit = 1.0f / (float)((uint32_t)1 << MODEL_LOGIT_SHIFT);
    for (image = 0; image < count; ++image) {
        int32_t found[MODEL_CLASSES];
        uint32_t i;
        model_logits(images + image * MODEL_PIXELS, found);
        for (i = 0; i < MODEL_CLASSES; ++i) {
            *logits++ = (float)found[i] * unit; /* exact: a product with a power of two */
        }
    }
#endif
}
