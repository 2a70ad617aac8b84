"""The science and the contract that coordinator and sites share; imports neither of them."""

WIRE_VERSION = 5
