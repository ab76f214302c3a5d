/* What the self-test and the harness need of a board. */
#ifndef PORT_H
#define PORT_H

#include <stdint.h>

/* Print a character: by UART, by semihosting, on standard output. */
void port_put(char character);

/* Read up to `count` bytes of images; returns how many there were. Needed by harness.c only. */
uint32_t port_read(uint8_t *bytes, uint32_t count);

/* Write logits; returns 0 where that failed. Needed by harness.c only. */
int port_write(const uint8_t *bytes, uint32_t count);

/* Instructions since the start. Needed by measure.c only. */
uint32_t port_instructions(void);

#endif
