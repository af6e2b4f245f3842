"""Until the tests of experiments/ no longer import it."""

from linear_cnn.networks._convolution import convolution as convolution
