// Opens /model.onnx under onnxruntime-web. `run` is for onnxruntime_web.py.
import * as ort from "/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: "/ort-wasm-simd-threaded.wasm" };

const ARRAYS = { uint8: Uint8Array, float32: Float32Array };
const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

globalThis.ready = ort.InferenceSession.create("/model.onnx", { executionProviders: ["wasm"] });

/** Run one batch; return its logits, Float32Array(n * 10). */
globalThis.run = async (input, output, dtype, shape, base64) => {
  const session = await globalThis.ready;
  const feed = new ort.Tensor(dtype, new ARRAYS[dtype](bytesOf(base64).buffer), shape);
  return (await session.run({ [input]: feed }, [output]))[output].data;
};
