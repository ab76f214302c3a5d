/* A computer: images on standard input, logits and text on standard output. */
#include <stdio.h>

#include "port.h"

void port_put(char character)
{
    putchar(character);
}

uint32_t port_read(uint8_t *bytes, uint32_t count)
{
    return (uint32_t)fread(bytes, 1, count, stdin);
}

int port_write(const uint8_t *bytes, uint32_t count)
{
    return fwrite(bytes, 1, count, stdout) == count && (count != 4 || fflush(stdout) == 0);
}
