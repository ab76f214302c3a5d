#include "logits.h"

#ifdef MODEL_FLOAT
static uint32_t bits(float value)
{
    union {
        float value;
        uint32_t bits;
    } both;
    both.value = value;
    return both.bits;
}
#else
/* value / 2^MODEL_LOGIT_SHIFT as float32; exact, as |value| < 2^24. */
static uint32_t bits(int32_t value)
{
    uint32_t fraction = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    uint32_t exponent = 127 + 23 - MODEL_LOGIT_SHIFT;
    if (fraction == 0) {
        return 0;
    }
    while (fraction < 0x800000u) { /* until the leading 1, which is not stored, is bit 23 */
        fraction <<= 1;
        --exponent;
    }
    return (value < 0 ? 0x80000000u : 0u) | exponent << 23 | (fraction & 0x7fffffu);
}
#endif

void logits_bytes(const model_logit *logits, uint8_t *bytes)
{
    uint8_t i;
    for (i = 0; i < MODEL_CLASSES; ++i) {
        const uint32_t value = bits(logits[i]);
        *bytes++ = (uint8_t)(value & 255);
        *bytes++ = (uint8_t)(value >> 8 & 255);
        *bytes++ = (uint8_t)(value >> 16 & 255);
        *bytes++ = (uint8_t)(value >> 24);
    }
}
