import com.fasterxml.jackson.annotation.JsonTypeInfo;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectMapper.DefaultTyping;
import java.io.ByteArrayOutputStream;
import java.io.ObjectOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;

/**
 * Prints user ids as a JDK and Jackson write them: the form, the id, and the bytes, in hex. Its
 * output is jdk.hex, made with JDK 17 and Jackson 2.17:
 * java -cp jackson-databind.jar:jackson-core.jar:jackson-annotations.jar Forms.java > jdk.hex
 */
class Forms {
    /** As GenericJackson2JsonRedisSerializer of Spring Data Redis 3 does. */
    static final ObjectMapper TYPED = new ObjectMapper();

    static {
        TYPED.activateDefaultTyping(
                TYPED.getPolymorphicTypeValidator(), DefaultTyping.EVERYTHING, JsonTypeInfo.As.PROPERTY);
    }

    static void print(String form, Object id, byte[] bytes) {
        HexFormat hex = HexFormat.of();
        byte[] text = id.toString().getBytes(StandardCharsets.UTF_8);
        System.out.println(form + " " + (text.length == 0 ? "-" : hex.formatHex(text)) + " " + hex.formatHex(bytes));
    }

    static byte[] java(Object id) throws Exception {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ObjectOutputStream out = new ObjectOutputStream(bytes)) {
            out.writeObject(id);
        }
        return bytes.toByteArray();
    }

    public static void main(String[] args) throws Exception {
        String many = "u".repeat(300);
        List<String> texts = List.of("", "1", "user-42", "A_b.c:d@e+f g", "김민수", "😀", "a\"b\\c/d", "\u0000\t", many);
        for (String text : texts) {
            print("java-string", text, java(text));
            print("json-string", text, TYPED.writeValueAsBytes(text));
        }
        for (long number : new long[] {0, 7, 42, -1, 9007199254740993L, Long.MAX_VALUE, Long.MIN_VALUE}) {
            print("java-long", number, java(number));
            print("json-typed", number, TYPED.writeValueAsBytes(number));
            print("json-number", number, new ObjectMapper().writeValueAsBytes(number));
        }
        UUID uuid = UUID.fromString("00112233-4455-6677-8899-aabbccddeeff");
        print("java-other", 42, java(42));
        print("java-other", uuid, java(uuid));
        print("java-other", "[1]", java(List.of(1L)));
        print("json-other", uuid, TYPED.writeValueAsBytes(uuid));
        print("json-other", 1.5, TYPED.writeValueAsBytes(1.5));
        print("json-other", "[1]", TYPED.writeValueAsBytes(List.of(1L)));
    }
}
