"""The clients that people have, from PyPI, against a real server."""

import base64

import pytest

ollama = pytest.importorskip("ollama", reason="the client of Ollama is not installed")
openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")


@pytest.fixture
def ollama_client(server):
    client = ollama.Client(host=server.url, trust_env=False)
    yield client
    client._client.close()


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def url(b64):
    return f"data:image/jpeg;base64,{b64}"


def test_ollama_lists_and_shows_the_models(ollama_client):
    (model,) = ollama_client.list().models
    assert model.model == "tiny:latest"
    assert model.details.family == "mrnn"
    assert model.size > 0
    shown = ollama_client.show("tiny")
    assert shown.capabilities == ["completion", "vision"]
    assert shown.details.quantization_level == "fp32"


@pytest.mark.parametrize("model", ["tiny", "tiny:latest"])
def test_ollama_generates(ollama_client, jpeg, texts, model):
    answer = ollama_client.generate(model, "Describe the image.", images=[jpeg])
    assert answer.response == texts[0]
    assert answer.model == model
    assert answer.done
    assert answer.eval_count == len(texts[0].split()) + 1


def test_ollama_streams(ollama_client, jpeg, texts):
    events = list(ollama_client.generate("tiny", "What is it?", images=[jpeg], stream=True))
    assert "".join(event.response for event in events) == texts[0]
    assert [event.done for event in events] == [False, True]
    message = {"role": "user", "content": "What is it?", "images": [jpeg]}
    chat = list(ollama_client.chat("tiny", [message], stream=True))
    assert "".join(event.message.content for event in chat) == texts[0]


def test_ollama_chats_about_the_last_photo(ollama_client, jpegs, texts):
    talk = [
        {"role": "user", "content": "And this?", "images": [jpegs[0]]},
        {"role": "assistant", "content": texts[0]},
        {"role": "user", "content": "And these?", "images": jpegs[1:3]},
        {"role": "assistant", "content": texts[1]},
        {"role": "user", "content": "Are you sure?"},
    ]
    answer = ollama_client.chat("tiny", talk)
    assert answer.message.role == "assistant"
    assert answer.message.content == "\n".join(texts[1:3])


def test_ollama_loads_a_model_with_an_empty_prompt(ollama_client):
    assert ollama_client.generate("tiny", "").done_reason == "load"
    assert ollama_client.chat("tiny", []).done_reason == "load"


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda client, jpeg: client.generate("large", "", images=[jpeg]), 404, "not found"),
        (lambda client, jpeg: client.generate("tiny", "Why?"), 400, "needs an image"),
        (lambda client, jpeg: client.generate("tiny", "", images=[b"text"]), 422, "no image"),
        (
            lambda client, jpeg: client.generate("tiny", "", images=[jpeg], format="json"),
            400,
            "plain",
        ),
        (lambda client, jpeg: client.show("large"), 404, "not found"),
    ],
)
def test_ollama_is_told_what_is_wrong(ollama_client, jpeg, call, status, said):
    with pytest.raises(ollama.ResponseError) as error:
        call(ollama_client, jpeg)
    assert error.value.status_code == status
    assert said in error.value.error


def test_a_prompt_that_ends_in_an_ellipsis_is_a_beginning(ollama_client, tiny, jpeg, texts):
    (primed,) = tiny.caption([jpeg], prefix="a hat")
    assert primed.text != texts[0]
    for prompt in ("a hat ...", "A hat…"):
        assert ollama_client.generate("tiny", prompt, images=[jpeg]).response == primed.text
    for prompt in ("a hat", "a zebra ...", "..."):
        assert ollama_client.generate("tiny", prompt, images=[jpeg]).response == texts[0]


def test_openai_lists_the_models(openai_client):
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").owned_by == "mrnn-runtime"
    with pytest.raises(openai.NotFoundError, match="not found"):
        openai_client.models.retrieve("large")


def chat(url):
    content = [
        {"type": "text", "text": "Describe the image."},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def test_openai_chats(openai_client, tiny, jpeg, url, texts):
    answer = openai_client.chat.completions.create(**chat(url))
    assert answer.choices[0].message.content == texts[0]
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens == len(texts[0].split()) + 1
    several = openai_client.chat.completions.create(**chat(url), n=3)
    (expected,) = tiny.caption([jpeg], n_best=3)
    said = [choice.message.content for choice in several.choices]
    assert said == [candidate.caption for candidate in expected.candidates]


def test_openai_streams_a_chat(openai_client, url, texts):
    chunks = list(openai_client.chat.completions.create(**chat(url), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == texts[0]
    assert chunks[-1].choices[0].finish_reason


def response(url):
    content = [
        {"type": "input_text", "text": "Describe the image."},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    return {"model": "tiny", "input": [{"role": "user", "content": content}]}


def test_openai_responds(openai_client, url, texts):
    answer = openai_client.responses.create(**response(url))
    assert answer.output_text == texts[0]
    assert answer.status == "completed"


def test_openai_streams_a_response(openai_client, url, texts):
    events = list(openai_client.responses.create(**response(url), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == texts[0]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == texts[0]


def test_openai_is_told_that_no_link_is_followed(openai_client):
    for link in ("http://127.0.0.1:1/a.jpg", "https://a.example/a.jpg", "file:///etc/passwd"):
        with pytest.raises(openai.BadRequestError, match="not followed"):
            openai_client.chat.completions.create(**chat(link))
        with pytest.raises(openai.BadRequestError, match="not followed"):
            openai_client.responses.create(**response(link))


def test_openai_is_told_what_is_wrong(openai_client, url):
    with pytest.raises(openai.BadRequestError, match="needs an image"):
        openai_client.responses.create(model="tiny", input="a poem, please")
    with pytest.raises(openai.BadRequestError, match="plain text"):
        openai_client.chat.completions.create(**chat(url), response_format={"type": "json_object"})
    broken = "data:image/jpeg;base64," + base64.b64encode(b"no photo").decode()
    with pytest.raises(openai.UnprocessableEntityError, match="no image"):
        openai_client.chat.completions.create(**chat(broken))
    with pytest.raises(openai.BadRequestError, match="n must be"):
        openai_client.chat.completions.create(**chat(url), n=1000)
