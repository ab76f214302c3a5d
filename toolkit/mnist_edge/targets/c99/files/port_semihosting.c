/*
 * Arm Cortex-M and RISC-V under a debugger or in QEMU: semihosting. Text goes to the console, images are read from
 * images.bin and logits written to logits.bin.
 */
#include "port.h"

enum { OPEN = 0x01, WRITE_CHARACTER = 0x03, WRITE = 0x05, READ = 0x06, EXIT_EXTENDED = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5 };
#define EXITED 0x20026u

int main(void);

/* Operation and parameter lie in the registers that the debugger reads, the result in the first of them. */
static intptr_t call(intptr_t operation, const void *parameter)
{
#ifdef __riscv
    register intptr_t first __asm__("a0") = operation;
    register intptr_t second __asm__("a1") = (intptr_t)parameter;
    __asm__ volatile(".balign 16\n.option push\n.option norvc\n"
                     "slli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop"
                     : "+r"(first)
                     : "r"(second)
                     : "memory");
#else
    register intptr_t first __asm__("r0") = operation;
    register intptr_t second __asm__("r1") = (intptr_t)parameter;
    __asm__ volatile("bkpt 0xab" : "+r"(first) : "r"(second) : "memory");
#endif
    return first;
}

static intptr_t open_file(const char *name, intptr_t length, intptr_t mode)
{
    intptr_t parameters[3];
    parameters[0] = (intptr_t)name;
    parameters[1] = mode;
    parameters[2] = length;
    return call(OPEN, parameters);
}

/* Read or write; returns the number of bytes that were left over. */
static uint32_t transfer(intptr_t operation, intptr_t file, const uint8_t *bytes, uint32_t count)
{
    intptr_t parameters[3];
    parameters[0] = file;
    parameters[1] = (intptr_t)bytes;
    parameters[2] = (intptr_t)count;
    return (uint32_t)call(operation, parameters);
}

void port_put(char character)
{
    call(WRITE_CHARACTER, &character);
}

uint32_t port_read(uint8_t *bytes, uint32_t count)
{
    static intptr_t file = -1;
    uint32_t left;
    if (file == -1) {
        file = open_file("images.bin", 10, READ_BINARY);
    }
    left = file == -1 ? count : transfer(READ, file, bytes, count);
    return left > count ? 0 : count - left;
}

int port_write(const uint8_t *bytes, uint32_t count)
{
    static intptr_t file = -1;
    if (file == -1) {
        file = open_file("logits.bin", 10, WRITE_BINARY);
    }
    return file != -1 && transfer(WRITE, file, bytes, count) == 0;
}

#ifdef __riscv
uint32_t port_instructions(void)
{
    uint32_t count;
    __asm__ volatile("rdinstret %0" : "=r"(count));
    return count;
}
#else
/* SysTick counts down; with -icount shift=0 an instruction takes 1 ns. QEMU's mps3-an547 runs at 32 MHz, others at 25. */
uint32_t port_instructions(void)
{
    volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010u;
    static uint32_t ticks, last;
    uint32_t now;
    if ((systick[0] & 1) == 0) {
        systick[1] = last = 0xffffffu;
        systick[2] = 0;
        systick[0] = 5; /* enabled, from the clock of the core */
    }
    now = systick[2];
    ticks += (last - now) & 0xffffffu;
    last = now;
#ifdef __ARM_FEATURE_MVE
    return ticks / 4 * 125;
#else
    return ticks * 40;
#endif
}
#endif

static void leave(int status)
{
    uint32_t parameters[2];
    parameters[0] = EXITED;
    parameters[1] = (uint32_t)status;
    for (;;) {
        call(EXIT_EXTENDED, parameters);
    }
}

/* The emulator loads .data with the program, and memory is 0 at its start: nothing is copied or cleared here. */
void start(void)
{
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_FP)
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* CPACR: switch the floating-point and vector unit on */
    __asm__ volatile("dsb\nisb");
#endif
    leave(main());
}

#ifdef __riscv
__asm__(".section .start, \"ax\"\n.globl _start\n_start: la sp, stack_top\n j start\n");
#else
static void fault(void)
{
    leave(2);
}

extern void stack_top(void); /* an address of the linker script, in a table of addresses */
__attribute__((section(".start"), used)) static void (*const vectors[7])(void) = {stack_top, start, fault, fault,
                                                                                 fault,     fault, fault};
#endif
