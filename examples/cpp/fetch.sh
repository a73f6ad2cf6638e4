#!/bin/sh
# Fetches what caption.cpp is built with, for Linux on x64, into ort/: ONNX Runtime's headers and its library. Both are
# MIT; they come from npm, out of the package of ONNX Runtime for Unity, which has the headers beside its iOS library.
set -eu
cd "$(dirname "$0")"
[ -f ort/lib/libonnxruntime.so.1 ] && exit 0
package=$(npm pack --silent com.github.asus4.onnxruntime@0.4.9)
echo "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d  $package" | sha256sum --check --quiet
mkdir -p ort/include ort/lib
tar -xzf "$package" -C ort/include --strip-components=7 \
    package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers
tar -xzf "$package" -C ort/lib --strip-components=4 package/Plugins/Linux/x64/libonnxruntime.so
ln -sf libonnxruntime.so ort/lib/libonnxruntime.so.1
rm "$package"
