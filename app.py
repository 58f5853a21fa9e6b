"""The app as a Hugging Face Space runs it; GROUNDED_CONFIG names another configuration than photo."""

from grounded.ui import serving  # first, since ZeroGPU wants to be imported before anything that may start CUDA

serving.prepare()

from grounded.ui.app import appearance, build_demo  # noqa: E402 (Gradio notes its folder when it is imported)

actions = serving.load_models()
demo = build_demo(actions)

if __name__ == "__main__":
    serving.serve(demo, actions.limits, **appearance())
