/* Prints the class of an image: ./classify image.ppm */

#include "network.c" /* python -m expanders.export RUN_DIR --format c --output network.c */

#include <stdio.h>

int main(int argc, char **argv) {
  static uint8_t pixels[NETWORK_HEIGHT * NETWORK_WIDTH * NETWORK_CHANNELS];
  float logits[NETWORK_CLASSES];
  int width, height, best = 0;
  FILE *file = argc == 2 ? fopen(argv[1], "rb") : NULL;
  if (file == NULL) {
    fprintf(stderr, "usage: %s image.ppm\n", argv[0]);
    return 2;
  }
  if (fscanf(file, "P6 %d %d 255", &width, &height) != 2 || fgetc(file) == EOF ||
      width != NETWORK_WIDTH || height != NETWORK_HEIGHT ||
      fread(pixels, sizeof pixels, 1, file) != 1) {
    fprintf(stderr, "%s: not a binary PPM of %dx%d pixels\n", argv[1], NETWORK_WIDTH,
            NETWORK_HEIGHT);
    return 1;
  }
  fclose(file);
  predict(pixels, logits);
  for (int i = 1; i < NETWORK_CLASSES; i++)
    if (logits[i] > logits[best]) best = i;
  printf("%d\n", best);
  return 0;
}
