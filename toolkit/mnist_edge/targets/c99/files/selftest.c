/* Compute the logits of the golden images, compare them with golden.h, and print one line. */
#include "golden.h"
#include "logits.h"
#include "port.h"
#include "sha256.h"

static void print(const char *text)
{
    while (*text) {
        port_put(*text++);
    }
}

static void print_number(uint16_t value)
{
    if (value > 9) {
        print_number(value / 10);
    }
    port_put((char)('0' + value % 10));
}

#ifdef PRINT_LOGITS
static void print_bytes(const uint8_t *bytes)
{
    uint8_t i;
    for (i = 0; i < 2 * LOGITS_BYTES; ++i) {
        const uint8_t half = (uint8_t)(i % 2 ? bytes[i / 2] & 15 : bytes[i / 2] >> 4);
        port_put((char)(half < 10 ? '0' + half : 'a' + half - 10));
    }
    port_put('\n');
}
#endif

static int fail(uint16_t image, const char *what)
{
    print("mnist-edge selftest FAILED at image ");
    print_number(image);
    print(what);
    return 1;
}

#ifdef MODEL_FLOAT
/* float32 sums differ in their last bits between compilers, by far less than this share of an image's largest logit. */
#define TOLERANCE 1e-4f

static float size(float value)
{
    return value < 0.0f ? -value : value;
}

static int differs(const float *logits, const float *expected)
{
    float largest = 1.0f;
    uint8_t i;
    for (i = 0; i < MODEL_CLASSES; ++i) {
        largest = size(expected[i]) > largest ? size(expected[i]) : largest;
    }
    for (i = 0; i < MODEL_CLASSES; ++i) {
        if (!(size(logits[i] - expected[i]) <= TOLERANCE * largest)) { /* also where it is NaN */
            return 1;
        }
    }
    return 0;
}
#else
static int differs(const int32_t *logits, const int32_t *expected)
{
    uint8_t i;
    for (i = 0; i < MODEL_CLASSES; ++i) {
        if (logits[i] != (int32_t)MODEL_LOAD32(expected + i)) {
            return 1;
        }
    }
    return 0;
}
#endif

#ifdef __AVR__
static const uint8_t *in_memory(const uint8_t *stored)
{
    static uint8_t image[MODEL_PIXELS];
    uint16_t i;
    for (i = 0; i < MODEL_PIXELS; ++i) {
        image[i] = MODEL_LOAD8(stored + i);
    }
    return image;
}
#else
#define in_memory(stored) (stored)
#endif

int main(void)
{
    model_logit logits[MODEL_CLASSES];
    uint8_t bytes[LOGITS_BYTES];
    char digits[65];
    sha256 hash;
    uint16_t image;

    sha256_start(&hash);
    for (image = 0; image < GOLDEN_COUNT; ++image) {
        model_logits(in_memory(golden_images[image]), logits);
        if (differs(logits, golden_logits[image])) {
            return fail(image, ": other logits than golden.h has\n");
        }
        logits_bytes(logits, bytes);
#ifdef PRINT_LOGITS
        print_bytes(bytes);
#endif
        sha256_add(&hash, bytes, LOGITS_BYTES);
    }
    sha256_end(&hash, digits);
#ifdef GOLDEN_SHA256
    for (image = 0; image < 64; ++image) {
        if (digits[image] != GOLDEN_SHA256[image]) {
            return fail(GOLDEN_COUNT, ": other sha256 of all logits than golden.h has\n");
        }
    }
#endif
    print("mnist-edge selftest ok ");
    print_number(GOLDEN_COUNT);
    print(" images, sha256 ");
    print(digits);
    port_put('\n');
    return 0;
}
