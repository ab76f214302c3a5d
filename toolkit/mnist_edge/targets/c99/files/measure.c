/*
 * In QEMU with -icount shift=0: print the instructions of an image, the mean of the golden images that show digits, and
 * the bytes of stack that model_logits uses. QEMU counts instructions, not cycles.
 */
#include "golden.h"
#include "port.h"

#define IMAGES 12u     /* digits; black, white and random images follow */
#define PAINTED 16384u /* bytes */
#define PAINT 0xa5u

static void print(const char *text)
{
    while (*text) {
        port_put(*text++);
    }
}

static void print_number(uint32_t value)
{
    if (value > 9) {
        print_number(value / 10);
    }
    port_put((char)('0' + value % 10));
}

/* Where the frame of model_logits will begin: both are called from main. */
static uint8_t *top;

static void mark(const uint8_t *image, model_logit *logits)
{
    (void)image;
    (void)logits;
    top = __builtin_frame_address(0);
}

int main(void)
{
    model_logit logits[MODEL_CLASSES];
    void (*volatile function)(const uint8_t *, model_logit *) = mark;
    volatile uint8_t *painted;
    uint32_t image, before, total = 0, untouched = 0;

    function(golden_images[0], logits);
    function = model_logits;
    painted = top - PAINTED; /* nothing uses this memory: there are no interrupts */
    for (image = 0; image < PAINTED; ++image) {
        painted[image] = PAINT;
    }
    for (image = 0; image < IMAGES; ++image) {
        before = port_instructions();
        function(golden_images[image], logits);
        total += port_instructions() - before;
    }
    while (untouched < PAINTED && painted[untouched] == PAINT) {
        ++untouched;
    }
    print("mnist-edge measure ");
    print_number(total / IMAGES);
    print(" instructions, ");
    print_number(PAINTED - untouched);
    print(" bytes of stack\n");
    return 0;
}
