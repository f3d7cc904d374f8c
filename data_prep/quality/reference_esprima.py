"""esprima at twice its speed, for its trees without positions.

It looks at each character by itself and notes where each node starts and ends. Here regular expressions read what is
common, and nobody notes anything; whatever is out of the ordinary is left to esprima.
"""

from __future__ import annotations

import re
from typing import Any

from esprima import nodes
from esprima.messages import Messages
from esprima.parser import Parser
from esprima.scanner import RawToken, Scanner
from esprima.syntax import Syntax
from esprima.token import Token

_BLANK = re.compile(r"[ \t\v\f]*+(?:\n[ \t\v\f]*+)*+").match
_TOKEN = re.compile(
    r"([A-Za-z_$][A-Za-z0-9_$]*+(?![\\\x80-\U0010ffff]))"
    r"|([\[\](){},;:?~]|\.(?![0-9.])|>>>=|===|!==|>>>|<<=|>>=|\*\*=|&&|\|\||[-+*/&|^%=!<>]=|\+\+|--|<<|>>|=>|\*\*"
    r"|[-<>=!+*%&|^/])"
    r"|((?:0|[1-9][0-9]*+)(?![0-9A-Za-z_$.\\\x80-\U0010ffff]))"
    r'|("[^"\\\n\r\u2028\u2029]*+"' + r"|'[^'\\\n\r\u2028\u2029]*+')"
).match
_WORD, _PUNCTUATOR, _NUMBER = 1, 2, 3
_OPERANDS = frozenset((Token.Identifier, Token.NumericLiteral, Token.StringLiteral))
_TYPES = {"null": Token.NullLiteral, "true": Token.BooleanLiteral, "false": Token.BooleanLiteral}


def parse(text: str, module: bool) -> Any:
    """The tree of a module or a script. Raises esprima.Error, or RecursionError where it is nested too deeply."""
    parser = _Parser(text)
    return parser.parseModule() if module else parser.parseScript()


class _Token(RawToken):
    pattern = flags = regex = octal = cooked = head = tail = None

    def __init__(self, kind: int, value: Any, scanner: Scanner, start: int):
        self.type = kind
        self.value = value
        self.lineNumber = scanner.lineNumber
        self.lineStart = scanner.lineStart
        self.start = start
        self.end = scanner.index


class _Scanner(Scanner):
    def scanComments(self) -> list[Any]:
        start = self.index
        end = _BLANK(self.source, start).end()
        following = self.source[end]
        if following in "/-<\r" or following >= "\x80" or start == 0:
            return super().scanComments()
        self.index = end
        if lines := self.source.count("\n", start, end):
            self.lineNumber += lines
            self.lineStart = self.source.rindex("\n", start, end) + 1
        return []

    def lex(self) -> RawToken:
        start = self.index
        found = _TOKEN(self.source, start)
        if found is None:
            return super().lex()
        kind, text = found.lastindex, found.group()
        if text == "}" and self.curlyStack and self.curlyStack[-1] == "${":  # goes on with a template
            return super().lex()
        self.index = found.end()
        if kind == _PUNCTUATOR:
            if text == "{":
                self.curlyStack.append("{")
            elif text == "}" and self.curlyStack:
                self.curlyStack.pop()
            return _Token(Token.Punctuator, text, self, start)
        if kind == _WORD:
            if len(text) > 1:
                kind = Token.Keyword if self.isKeyword(text) else _TYPES.get(text, Token.Identifier)
                return _Token(kind, text, self, start)
            return _Token(Token.Identifier, text, self, start)
        if kind == _NUMBER:
            value = float(text)
            return _Token(Token.NumericLiteral, int(value) if value.is_integer() else value, self, start)
        return _Token(Token.StringLiteral, text[1:-1], self, start)


class _Parser(Parser):
    def __init__(self, text: str):
        super().__init__(text)
        self.scanner.__class__ = _Scanner

    def nextToken(self) -> RawToken:
        token, scanner = self.lookahead, self.scanner
        scanner.scanComments()
        self.startMarker.index = scanner.index
        following = scanner.lex()
        self.hasLineTerminator = token.lineNumber != following.lineNumber
        if self.context.strict and following.type is Token.Identifier:
            if scanner.isStrictModeReservedWord(following.value):
                following.type = Token.Keyword
        self.lookahead = following
        return token

    def createNode(self) -> None:
        return None

    def startNode(self, token: RawToken, lastLineStart: int = 0) -> None:
        return None

    def finalize(self, marker: None, node: Any) -> Any:
        return node

    def match(self, *value: str) -> bool:
        lookahead = self.lookahead
        return lookahead.type is Token.Punctuator and lookahead.value in value

    def inheritCoverGrammar(self, parseFunction: Any) -> Any:
        context = self.context
        binding, target = context.isBindingElement, context.isAssignmentTarget
        first_error = context.firstCoverInitializedNameError
        if binding and target and first_error is None:
            return parseFunction()  # nothing to set aside
        context.isBindingElement = context.isAssignmentTarget = True
        context.firstCoverInitializedNameError = None
        result = parseFunction()
        context.isBindingElement = context.isBindingElement and binding
        context.isAssignmentTarget = context.isAssignmentTarget and target
        context.firstCoverInitializedNameError = first_error or context.firstCoverInitializedNameError
        return result

    def parseExponentiationExpression(self) -> Any:
        """Without the detours of operators in front, where a name or a literal comes first."""
        if self.lookahead.type not in _OPERANDS or self.lookahead.value in ("await", "async"):
            return super().parseExponentiationExpression()
        context = self.context
        expression = self.inheritCoverGrammar(self.parseLeftHandSideExpressionAllowCall)
        if not self.hasLineTerminator and self.match("++", "--"):
            if context.strict and expression.type is Syntax.Identifier:
                if self.scanner.isRestrictedWord(expression.name):
                    self.tolerateError(Messages.StrictLHSPostfix)
            if not context.isAssignmentTarget:
                self.tolerateError(Messages.InvalidLHSInAssignment)
            context.isAssignmentTarget = context.isBindingElement = False
            expression = nodes.UpdateExpression(self.nextToken().value, expression, False)
        if self.match("**"):
            self.nextToken()
            context.isAssignmentTarget = context.isBindingElement = False
            right = self.isolateCoverGrammar(self.parseExponentiationExpression)
            expression = nodes.BinaryExpression("**", expression, right)
        return expression

    def parsePrimaryExpression(self) -> Any:
        first = self.lookahead
        if first.type is Token.Identifier and first.value not in ("await", "async"):
            return nodes.Identifier(self.nextToken().value)
        if first.type in (Token.NumericLiteral, Token.StringLiteral) and not first.octal:
            self.context.isAssignmentTarget = self.context.isBindingElement = False
            return nodes.Literal(first.value, self.getTokenRaw(self.nextToken()))
        return super().parsePrimaryExpression()
