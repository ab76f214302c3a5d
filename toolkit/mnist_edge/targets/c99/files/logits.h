/* Logits as the little-endian bytes of float32, which is how they are compared and hashed; needs no floating point. */
#ifndef LOGITS_H
#define LOGITS_H

#include "model.h"

#define LOGITS_BYTES (4 * MODEL_CLASSES)

void logits_bytes(const model_logit *logits, uint8_t *bytes);

#endif
