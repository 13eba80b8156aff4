"""Putting answers together, without a server: what a real one never sends must be noticed too."""

import pytest


@pytest.fixture
def proto(installed_python):
    from gma_client._proto import common_pb2, generation_pb2

    class Proto:
        @staticmethod
        def tokens(sequence, *texts, candidate=0):
            tokens = [common_pb2.Token(id=i, text=text) for i, text in enumerate(texts)]
            return generation_pb2.GenerateResponse(
                sequence=sequence,
                tokens=generation_pb2.Tokens(tokens=tokens, candidate=candidate),
            )

        @staticmethod
        def finished(sequence, text=b"", candidate=0):
            return generation_pb2.GenerateResponse(
                sequence=sequence,
                finished=generation_pb2.Finished(
                    reason=common_pb2.FINISH_REASON_LENGTH, text=text, candidate=candidate
                ),
            )

    return Proto


def test_characters_that_are_cut_between_tokens_come_out_whole(proto):
    from gma_client._answer import AnswerState

    state = AnswerState()
    euro = "€".encode()
    assert state.feed(proto.tokens(1, b"a" + euro[:1])).text == "a"
    assert state.feed(proto.tokens(2, euro[1:2])).text == ""
    assert state.feed(proto.tokens(3, euro[2:], b"!")).text == "€!"
    assert state.feed(proto.tokens(5, euro[:2])).text == ""
    assert state.feed(proto.finished(6)).text == "\ufffd"
    assert state.text(0) == "a€!\ufffd"
    assert state.complete
    assert state.finishes[0].reason == "length"


def test_candidates_do_not_mix(proto):
    from gma_client._answer import AnswerState

    state = AnswerState(2)
    state.feed(proto.tokens(1, "é".encode()[:1], candidate=0))
    state.feed(proto.tokens(2, b"x", candidate=1))
    state.feed(proto.tokens(3, "é".encode()[1:], candidate=0))
    state.feed(proto.finished(4, candidate=1))
    assert not state.complete
    state.feed(proto.finished(5, candidate=0))
    assert state.complete
    assert (state.text(0), state.text(1)) == ("é", "x")


def test_lost_and_repeated_events_are_errors(proto):
    import gma_client
    from gma_client._answer import SequenceCheck

    check = SequenceCheck()
    check.accept(proto.tokens(1, b"a", b"b"))
    with pytest.raises(gma_client.DataLossError, match="sequence 2 came where 3 was due"):
        check.accept(proto.tokens(2, b"b"))
    check = SequenceCheck()
    with pytest.raises(gma_client.DataLossError):
        check.accept(proto.tokens(2, b"a"))


def test_an_answer_without_an_end_is_an_error(proto):
    import gma_client
    from gma_client._answer import AnswerState

    events = iter([proto.tokens(1, b"a")])
    answer = gma_client.Answer(AnswerState(), lambda: next(events, None), lambda: None)
    assert next(answer).text == "a"
    with pytest.raises(gma_client.UnavailableError):
        next(answer)
    assert answer.finish is None
    assert list(answer) == []


def test_unknown_options_are_refused(installed_python):
    from gma_client._convert import split_options

    with pytest.raises(TypeError, match="temprature"):
        split_options({"temprature": 1.0})
