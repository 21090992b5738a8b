"""Tests of Ringback: they mirror the packages; `walks` goes the whole way against real processes."""
