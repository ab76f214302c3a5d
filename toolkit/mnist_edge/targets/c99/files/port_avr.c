/* An AVR with USART0, as the ATmega328P: text goes to the serial line, 9,600 baud at 16 MHz. */
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

#include "port.h"

void port_put(char character)
{
    UBRR0 = 103;
    UCSR0B = 1 << TXEN0;
    while (!(UCSR0A & (1 << UDRE0))) {
    }
    UDR0 = (uint8_t)character;
}

/* After main: the emulator ends when the processor sleeps without interrupts. */
__attribute__((naked, used, section(".fini1"))) void port_end(void)
{
    while (!(UCSR0A & (1 << UDRE0))) {
    }
    cli();
    sleep_mode();
}
