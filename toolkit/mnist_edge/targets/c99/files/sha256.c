#include "sha256.h"

#include "model.h"

/* The fractional parts of the cube roots of the first 64 primes. */
static const uint32_t ROUNDS[64] MODEL_STORED = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

/* The fractional parts of the square roots of the first 8 primes. */
static const uint32_t INITIAL[8] MODEL_STORED = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                           0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

#define ROTATED(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

static uint32_t word(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void compress(sha256 *hash)
{
    uint32_t w[16], v[8], first, second;
    uint8_t i;
    for (i = 0; i < 16; ++i) {
        w[i] = word(hash->block + 4 * i);
    }
    for (i = 0; i < 8; ++i) {
        v[i] = hash->state[i];
    }
    for (i = 0; i < 64; ++i) {
        const uint8_t a = (uint8_t)(-i & 7); /* v[a] to v[a + 7], modulo 8, are the variables a to h of the standard */
        uint32_t *h = &v[(a + 7) & 7];
        const uint32_t e = v[(a + 4) & 7];
        first = *h + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) +
                ((e & v[(a + 5) & 7]) ^ (~e & v[(a + 6) & 7])) + MODEL_LOAD32(&ROUNDS[i]) + w[i & 15];
        second = (ROTATED(v[a], 2) ^ ROTATED(v[a], 13) ^ ROTATED(v[a], 22)) +
                 ((v[a] & v[(a + 1) & 7]) ^ (v[a] & v[(a + 2) & 7]) ^ (v[(a + 1) & 7] & v[(a + 2) & 7]));
        v[(a + 3) & 7] += first;
        *h = first + second;
        first = w[(i + 1) & 15];
        second = w[(i + 14) & 15];
        w[i & 15] += (ROTATED(first, 7) ^ ROTATED(first, 18) ^ (first >> 3)) + w[(i + 9) & 15] +
                     (ROTATED(second, 17) ^ ROTATED(second, 19) ^ (second >> 10));
    }
    for (i = 0; i < 8; ++i) {
        hash->state[i] += v[i];
    }
}

void sha256_start(sha256 *hash)
{
    uint8_t i;
    hash->bytes = 0;
    for (i = 0; i < 8; ++i) {
        hash->state[i] = (uint32_t)MODEL_LOAD32(&INITIAL[i]);
    }
}

void sha256_add(sha256 *hash, const uint8_t *bytes, uint16_t count)
{
    uint16_t i;
    for (i = 0; i < count; ++i) {
        hash->block[hash->bytes++ & 63] = bytes[i];
        if ((hash->bytes & 63) == 0) {
            compress(hash);
        }
    }
}

void sha256_end(sha256 *hash, char *digits)
{
    const uint32_t bytes = hash->bytes;
    uint8_t end = 0x80, i;
    do {
        sha256_add(hash, &end, 1);
        end = 0;
    } while ((hash->bytes & 63) != 56);
    for (i = 0; i < 8; ++i) {
        const uint8_t shift = (uint8_t)(56 - 8 * i);
        end = (uint8_t)(((uint64_t)bytes << 3) >> shift);
        sha256_add(hash, &end, 1);
    }
    for (i = 0; i < 64; ++i) {
        const uint8_t value = (uint8_t)(hash->state[i / 8] >> (28 - 4 * (i % 8)) & 15);
        digits[i] = (char)(value < 10 ? '0' + value : 'a' + value - 10);
    }
    digits[64] = 0;
}
