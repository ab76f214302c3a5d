/* SHA-256 (FIPS 180-4) of a stream of bytes. */
#ifndef SHA256_H
#define SHA256_H

#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint32_t bytes;
    uint8_t block[64];
} sha256;

void sha256_start(sha256 *hash);
void sha256_add(sha256 *hash, const uint8_t *bytes, uint16_t count);
/* End the stream; writes 64 hexadecimal digits and a 0. */
void sha256_end(sha256 *hash, char *digits);

#endif
