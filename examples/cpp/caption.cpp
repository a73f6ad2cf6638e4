// Captions JPEGs with one ONNX file, ONNX Runtime and libjpeg; no Python:
//
//     mrnn flatten everyday -o caption.onnx --resize-inside
//     c++ -std=c++17 caption.cpp -I ort/include -L ort/lib -lonnxruntime -ljpeg -Wl,-rpath,"$PWD/ort/lib" -o caption
//     ./caption caption.onnx dog.jpg
//
// ort/ holds ONNX Runtime's headers and library: from its releases, or by fetch.sh. EXIF data is not looked at: a photo
// that must be turned has to be turned first.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdio>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>

struct Photo {
  std::vector<uint8_t> pixels;  // RGB, row by row
  int64_t height, width;
};

Photo read(const char* path) {
  FILE* file = std::fopen(path, "rb");
  if (!file) throw std::runtime_error(std::string(path) + " cannot be read");
  jpeg_decompress_struct jpeg;
  jpeg_error_mgr errors;  // what it does about a broken file: print why and exit
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&jpeg);
  jpeg_stdio_src(&jpeg, file);
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  Photo photo{{}, jpeg.output_height, jpeg.output_width};
  const size_t row = 3 * size_t(photo.width);
  photo.pixels.resize(row * photo.height);
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW next = photo.pixels.data() + row * jpeg.output_scanline;
    jpeg_read_scanlines(&jpeg, &next, 1);
  }
  jpeg_finish_decompress(&jpeg);
  jpeg_destroy_decompress(&jpeg);
  std::fclose(file);
  return photo;
}

int main(int count, char** given) {
  if (count < 3) {
    std::cerr << "caption FILE.onnx PHOTO.jpg...\n";
    return 2;
  }
  try {
    Ort::Env env;
    Ort::Session session(env, given[1], Ort::SessionOptions{});
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    for (int i = 2; i < count; ++i) {
      Photo photo = read(given[i]);
      const std::array<int64_t, 4> shape{1, photo.height, photo.width, 3};
      const auto image = Ort::Value::CreateTensor<uint8_t>(
          memory, photo.pixels.data(), photo.pixels.size(), shape.data(), shape.size());
      const char* const inputs[] = {"image"};
      const char* const outputs[] = {"caption"};
      const auto found = session.Run(Ort::RunOptions{}, inputs, &image, 1, outputs, 1);
      const auto places = found[0].GetTensorTypeAndShapeInfo().GetShape()[2];
      std::cout << given[i] << '\t';
      for (int64_t place = 0; place < places; ++place)  // of the best caption
        std::cout << found[0].GetStringTensorElement(place);
      std::cout << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
